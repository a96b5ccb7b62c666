//! `lbctl ipset …`: what `ipset …` is when it is a link to `lbctl`.

use std::io::{self, BufReader};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::cli::ipset;

pub(super) struct Ipset;

impl OwnCommand for Ipset {
    fn command(&self) -> Command {
        let words = Arg::new("words")
            .value_name("ARGUMENTS")
            .action(ArgAction::Append)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .help("As ipset takes them");
        Command::new("ipset").about("IP sets in ipset's syntax").disable_help_flag(true).arg(words)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let mut around = ipset::Surroundings {
            input: &mut BufReader::new(io::stdin()),
            output: context.output,
            errors: &mut io::stderr(),
        };
        Ok(ipset::run(&words, &mut client, &mut around))
    }
}
