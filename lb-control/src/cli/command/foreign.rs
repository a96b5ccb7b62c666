//! Commands of other tools: `lbctl ipvsadm …` is what `ipvsadm …` is when it is a link to `lbctl`.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::man::{Content, Section};
use super::{Context, DEFAULT_SOCKET, Failure, OwnCommand};
use crate::cli::client::Client;
use crate::cli::director::Director;
use crate::cli::{conntrack, ipset, iptables, ipvsadm, nfacct, nfnl_osf};

/// Name, what it is for, and what speaks its syntax.
pub(super) struct Foreign(pub(super) &'static str, pub(super) &'static str, pub(super) Speaker);

#[derive(Clone, Copy)]
pub(super) enum Speaker {
    Conntrack,
    Ipset,
    Nfacct,
    NfnlOsf,
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

    /// Its own help, for which no daemon is asked.
    fn manual(&self) -> Vec<Section> {
        let word = match self.2 {
            Speaker::Ipset | Speaker::Nfacct => "help",
            Speaker::NfnlOsf => "-h",
            _ => "--help",
        };
        let (mut text, mut usage) = (Vec::new(), Vec::new());
        let client = Client::new(Path::new(DEFAULT_SOCKET));
        let done = client.map(|mut client| {
            self.speak(&[word.to_owned()], &mut client, &mut io::empty(), &mut text, &mut usage)
        });
        // As where it comes from, one of them says it as an error.
        let text = if text.is_empty() { usage } else { text };
        match String::from_utf8(text) {
            Ok(text) if done.is_ok() && !text.is_empty() => {
                vec![Section { title: "ARGUMENTS", content: Content::Lines(text) }]
            }
            _ => Vec::new(),
        }
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let (input, errors) = (&mut BufReader::new(io::stdin()), &mut io::stderr());
        Ok(self.speak(&words, &mut client, input, &mut *context.output, errors))
    }
}

impl Foreign {
    fn speak(
        &self,
        words: &[String],
        client: &mut Client,
        input: &mut dyn BufRead,
        output: &mut dyn Write,
        errors: &mut dyn Write,
    ) -> u8 {
        let &Foreign(name, _, speaker) = self;
        match speaker {
            Speaker::Conntrack => match conntrack::file(words) {
                Some(name) => conntrack::load(name, input, client, output, errors),
                None => conntrack::run(words, client, output, errors),
            },
            Speaker::Ipset => ipset::run(words, client, &mut ipset::Surroundings { input, output, errors }),
            Speaker::Nfacct => {
                nfacct::run(words, client, &mut nfacct::Surroundings { input, output, errors })
            }
            Speaker::NfnlOsf => nfnl_osf::run(words, client, output, errors),
            Speaker::Ipvsadm(speak) => {
                let names = &ipvsadm::System;
                speak(words, client, &mut ipvsadm::Surroundings { names, input, output, errors })
            }
            Speaker::Iptables(speak) => {
                let names = &iptables::System;
                speak(name, words, client, &mut iptables::Surroundings { names, input, output, errors })
            }
        }
    }
}
