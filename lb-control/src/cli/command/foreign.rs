//! Commands of other tools: `lbctl ipvsadm …` is what `ipvsadm …` is when it is a link to `lbctl`.

use std::io::{self, BufReader};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::cli::client::Client;
use crate::cli::{conntrack, iptables, ipvsadm};

/// By name.
pub(super) struct Foreign(pub(super) &'static str);

/// What speaks a command's syntax, if it is built.
#[derive(Clone, Copy)]
enum Speaker {
    Conntrack,
    Ipvsadm(fn(&[String], &mut dyn crate::cli::director::Director, &mut ipvsadm::Surroundings<'_>) -> u8),
    Iptables(
        fn(&'static str, &[String], &mut dyn iptables::RuleKeeper, &mut iptables::Surroundings<'_>) -> u8,
    ),
}

fn speaker(name: &str) -> Option<Speaker> {
    Some(match name {
        "ipvsadm" => Speaker::Ipvsadm(ipvsadm::run),
        "ipvsadm-save" => Speaker::Ipvsadm(ipvsadm::run_save),
        "ipvsadm-restore" => Speaker::Ipvsadm(ipvsadm::run_restore),
        "conntrack" => Speaker::Conntrack,
        "iptables" | "ip6tables" => Speaker::Iptables(iptables::run),
        "iptables-save" | "ip6tables-save" => Speaker::Iptables(iptables::run_save),
        "iptables-restore" | "ip6tables-restore" => Speaker::Iptables(iptables::run_restore),
        _ => return None,
    })
}

impl OwnCommand for Foreign {
    fn command(&self) -> Command {
        let words = Arg::new("words")
            .value_name("ARGUMENTS")
            .action(ArgAction::Append)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .help(format!("As {} takes them", self.0));
        let is_built = speaker(self.0).is_some();
        let about = match self.0 {
            "ipvsadm" => "Services, real servers, connections in ipvsadm's syntax",
            "ipvsadm-save" => "Print command lines that make the services again",
            "ipvsadm-restore" => "Do the command lines that standard input holds",
            "conntrack" => "Connections in conntrack's syntax",
            "iptables" => "Rules for IPv4 in iptables' syntax",
            "ip6tables" => "Rules for IPv6 in ip6tables' syntax",
            "iptables-save" | "ip6tables-save" => "Print tables of rules as a file",
            "iptables-restore" | "ip6tables-restore" => "Make tables of rules of a file, all or nothing",
            _ => "Not built yet",
        };
        Command::new(self.0).about(about).disable_help_flag(true).hide(!is_built).arg(words)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let Some(speak) = speaker(self.0) else {
            return Err(io::Error::other(format!("{} is not built yet", self.0)).into());
        };
        let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let mut client: Client = context.client()?;
        let (input, errors) = (&mut BufReader::new(io::stdin()), &mut io::stderr());
        let output = &mut *context.output;
        Ok(match speak {
            Speaker::Conntrack => conntrack::run(&words, &mut client, output, errors),
            Speaker::Ipvsadm(speak) => {
                let names = &ipvsadm::System;
                speak(&words, &mut client, &mut ipvsadm::Surroundings { names, input, output, errors })
            }
            Speaker::Iptables(speak) => {
                let names = &iptables::System;
                let mut around = iptables::Surroundings { names, input, output, errors };
                speak(self.0, &words, &mut client, &mut around)
            }
        })
    }
}
