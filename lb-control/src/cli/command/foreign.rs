//! Commands of other tools: `lbctl ipvsadm …` is what `ipvsadm …` is when it is a link to `lbctl`.

use std::io::{self, BufReader};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Failure, OwnCommand};
use crate::cli::client::Client;
use crate::cli::conntrack;
use crate::cli::ipvsadm::{self, Surroundings, System};

/// By name.
pub(super) struct Foreign(pub(super) &'static str);

/// What speaks a command's syntax, if it is built.
type Speaker = fn(&[String], &mut Client, &mut Surroundings<'_>) -> u8;

fn speaker(name: &str) -> Option<Speaker> {
    match name {
        "ipvsadm" => Some(|words, client, around| ipvsadm::run(words, client, around)),
        "ipvsadm-save" => Some(|words, client, around| ipvsadm::run_save(words, client, around)),
        "ipvsadm-restore" => Some(|words, client, around| ipvsadm::run_restore(words, client, around)),
        "conntrack" => {
            Some(|words, client, around| conntrack::run(words, client, around.output, around.errors))
        }
        _ => None,
    }
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
            _ => "Not built yet",
        };
        Command::new(self.0).about(about).disable_help_flag(true).hide(!is_built).arg(words)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let Some(speak) = speaker(self.0) else {
            return Err(io::Error::other(format!("{} is not built yet", self.0)).into());
        };
        let words: Vec<String> = matches.get_many("words").into_iter().flatten().cloned().collect();
        let mut client = context.client()?;
        let mut around = Surroundings {
            names: &System,
            input: &mut BufReader::new(io::stdin()),
            output: context.output,
            errors: &mut io::stderr(),
        };
        Ok(speak(&words, &mut client, &mut around))
    }
}
