//! `lbctl sysctl`: the switches that the kernel's IPVS and its connection tracking have, as `sysctl` prints and sets them.

use clap::{Arg, ArgAction, ArgMatches, Command};
use lb_core::tables::Sysctls;

use super::man::{Content, Section};
use super::{Context, Failure, OwnCommand, json};
use crate::api::types::{Batch, Command as Change, OnError, SysctlValue};
use crate::cli::director::{Director, DirectorError};

/// Before the names in the kernel, and allowed here.
const PREFIXES: [&str; 2] = ["net.ipv4.vs.", "net.netfilter."];

pub(super) struct Sysctl;

/// What one argument asks for.
fn parse(text: &str) -> Result<(String, Option<u32>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (text.trim(), None),
    };
    let dotted = name.replace('/', ".");
    let name = PREFIXES.iter().find_map(|prefix| dotted.strip_prefix(prefix)).unwrap_or(&dotted);
    if let Some(fixed) = Sysctls::fixed_named(name) {
        return match value.map(str::parse) {
            None => Ok((name.to_owned(), None)),
            Some(Ok(value)) if value == fixed.value => Ok((name.to_owned(), Some(value))),
            Some(_) => Err(fixed.refusal()),
        };
    }
    let Some(sysctl) = Sysctls::named(name) else {
        return Err(Sysctls::why_not(name));
    };
    let value = match value.map(str::parse) {
        None => None,
        Some(Ok(value)) if value <= sysctl.max => Some(value),
        Some(_) => return Err(format!("allowed are 0..={}", sysctl.max)),
    };
    Ok((name.to_owned(), value))
}

/// All switches, and what they are for.
fn rows() -> impl Iterator<Item = (String, String)> {
    let fixed = Sysctls::fixed()
        .map(|fixed| (fixed.name.to_owned(), format!("always {}: {}", fixed.value, fixed.why)));
    let kept = Sysctls::all().map(|sysctl| (sysctl.name.to_owned(), sysctl.meaning.to_owned()));
    kept.chain(fixed)
}

impl OwnCommand for Sysctl {
    fn command(&self) -> Command {
        let rows: Vec<_> = rows().map(|(name, meaning)| format!("{name}\n    {meaning}")).collect();
        Command::new("sysctl")
            .about("Print switches of IPVS and of connection tracking by the kernel's names, or set them: NAME=VALUE")
            .arg(
                Arg::new("sysctls")
                    .value_name("NAME[=VALUE]")
                    .num_args(0..)
                    .value_parser(parse)
                    .help("Which to print or to set; all are printed when none is named"),
            )
            .arg(Arg::new("write").short('w').action(ArgAction::SetTrue).hide(true))
            .arg(json())
            .after_help(rows.join("\n"))
    }

    fn manual(&self) -> Vec<Section> {
        vec![Section { title: "SWITCHES", content: Content::Rows(rows().collect()) }]
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let asked: Vec<(String, Option<u32>)> =
            matches.get_many("sysctls").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let set = |(name, value): &(String, Option<u32>)| {
            value.map(|value| Change::SetSysctl(SysctlValue { name: name.clone(), value }))
        };
        let commands: Vec<_> = asked.iter().filter_map(set).collect();
        if !commands.is_empty() {
            let reply = client.run(Batch { commands, on_error: OnError::Rollback })?;
            if let Some(failure) = reply.failed.into_iter().next() {
                return Err(DirectorError::Refused(failure.error).into());
            }
        }
        let mut values: Vec<SysctlValue> = client.get("/v1/sysctl")?;
        values.retain(|value| asked.is_empty() || asked.iter().any(|(name, _)| *name == value.name));
        if matches.get_flag("json") {
            return context.print_json(&values);
        }
        for SysctlValue { name, value } in values {
            let prefix = Sysctls::prefix_of(&name);
            writeln!(context.output, "{prefix}{name} = {value}")?;
        }
        Ok(0)
    }
}
