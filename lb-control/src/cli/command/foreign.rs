//! Commands of other tools: `lbctl ipvsadm …` is what `ipvsadm …` is when it is a link to `lbctl`.

use std::io::{self, BufReader};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::cli::director::Director;
use crate::cli::{conntrack, ipset, iptables, ipvsadm};

/// Name, what it is for, and what speaks its syntax.
pub(super) struct Foreign(pub(super) &'static str, pub(super) &'static str, pub(super) Speaker);

#[derive(Clone, Copy)]
pub(super) enum Speaker {
    Conntrack,
    Ipset,
    Ipvsadm(fn(&[String], &mut dyn Director, &mut ipvsadm::Surroundings<'_>) -> u8),
    Iptables(
        fn(&'static str, &[String], &mut dyn iptables::RuleKeeper, &mut iptables::Surroundings<'_>) -> u8,
    ),
}

impl OwnCommand for Foreign {
    fn command(&self) -> Command {
        let &Foreign(name, about, _) = self;
        let words = Arg::new("words")
            .value_name("ARGUMENTS")
            .action(ArgAction::Append)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .help(format!("As {name} takes them"));
        Command::new(name).about(about).disable_help_flag(true).arg(words)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let &Foreign(name, _, speaker) = self;
        let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let (input, errors) = (&mut BufReader::new(io::stdin()), &mut io::stderr());
        let output = &mut *context.output;
        Ok(match speaker {
            Speaker::Conntrack => match conntrack::file(&words) {
                Some(name) => conntrack::load(name, input, &mut client, output, errors),
                None => conntrack::run(&words, &mut client, output, errors),
            },
            Speaker::Ipset => {
                ipset::run(&words, &mut client, &mut ipset::Surroundings { input, output, errors })
            }
            Speaker::Ipvsadm(speak) => {
                let names = &ipvsadm::System;
                speak(&words, &mut client, &mut ipvsadm::Surroundings { names, input, output, errors })
            }
            Speaker::Iptables(speak) => {
                let names = &iptables::System;
                let mut around = iptables::Surroundings { names, input, output, errors };
                speak(name, &words, &mut client, &mut around)
            }
        })
    }
}
