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

/// What one argument asks for: to be printed, and first to be set where there are numbers, of which one that is a [pair](Sysctls::PAIR) takes two.
#[derive(Clone)]
struct Asked {
    name: String,
    values: Vec<u32>,
}

impl Asked {
    fn parse(text: &str) -> Result<Asked, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        let dotted = name.replace('/', ".");
        let name = PREFIXES.iter().find_map(|prefix| dotted.strip_prefix(prefix)).unwrap_or(&dotted);
        let values = value.map_or(Ok(Vec::new()), |value| numbers(name, value));
        let is_known = Sysctls::named(name).is_some() || Sysctls::fixed_named(name).is_some();
        if is_known {
            Ok(Asked { name: name.to_owned(), values: values? })
        } else {
            Err(Sysctls::why_not(name))
        }
    }

    fn changes(&self) -> impl Iterator<Item = Change> {
        let names = [&self.name, Sysctls::PAIR.1];
        names
            .into_iter()
            .zip(&self.values)
            .map(|(name, &value)| Change::SetSysctl(SysctlValue { name: name.to_owned(), value }))
    }
}

/// The numbers that one is to be set to.
fn numbers(name: &str, text: &str) -> Result<Vec<u32>, String> {
    let is_pair = name == Sysctls::PAIR.0;
    let numbers =
        text.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>().unwrap_or_default();
    if let Some(fixed) = Sysctls::fixed_named(name) {
        return if numbers == [fixed.value] { Ok(numbers) } else { Err(fixed.refusal()) };
    }
    let max = Sysctls::named(name).map_or(0, |sysctl| sysctl.max);
    match numbers[..] {
        [number] if number <= max => Ok(numbers),
        // As the kernel refuses them.
        [first, second] if is_pair && second > 0 && first >= second => {
            Err(format!("{first} is not below {second}, as it is to be unless that is 0"))
        }
        [first, second] if is_pair && first.max(second) <= max => Ok(numbers),
        _ if is_pair => Err(format!("allowed are one or two numbers, 0..={max}")),
        _ => Err(format!("allowed are 0..={max}")),
    }
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
                    .value_parser(Asked::parse)
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
        let asked: Vec<Asked> = matches.get_many("sysctls").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let commands: Vec<_> = asked.iter().flat_map(Asked::changes).collect();
        if !commands.is_empty() {
            let reply = client.run(Batch { commands, on_error: OnError::Rollback })?;
            if let Some(failure) = reply.failed.into_iter().next() {
                return Err(DirectorError::Refused(failure.error).into());
            }
        }
        let mut values: Vec<SysctlValue> = client.get("/v1/sysctl")?;
        let second = values.iter().find(|value| value.name == Sysctls::PAIR.1).map(|value| value.value);
        values.retain(|value| asked.is_empty() || asked.iter().any(|asked| asked.name == value.name));
        if matches.get_flag("json") {
            return context.print_json(&values);
        }
        for SysctlValue { name, value } in values {
            let prefix = Sysctls::prefix_of(&name);
            // As `sysctl` prints what has several numbers.
            let more = second.filter(|_| name == Sysctls::PAIR.0).map(|second| format!("\t{second}"));
            writeln!(context.output, "{prefix}{name} = {value}{}", more.unwrap_or_default())?;
        }
        Ok(0)
    }
}
