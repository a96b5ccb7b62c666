//! `lbctl completions`: for a shell to load.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};

use super::{Context, Failure, OwnCommand, lbctl};

pub(super) struct Completions;

impl OwnCommand for Completions {
    fn command(&self) -> Command {
        let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell));
        Command::new("completions").about("Print completions of lbctl for a shell").arg(shell)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        if let Some(shell) = matches.get_one::<Shell>("shell") {
            // The generator panics when it cannot write: let it write to memory.
            let mut text = Vec::new();
            generate(*shell, &mut lbctl(), "lbctl", &mut text);
            context.output.write_all(&text)?;
        }
        Ok(0)
    }
}
