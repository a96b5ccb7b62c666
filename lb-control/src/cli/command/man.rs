//! `lbctl man`: the man pages.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, ValueHint, value_parser};
use clap_mangen::{Man as Page, generate_to};

use super::{Context, Failure, OwnCommand, lbctl};

pub(super) struct Man;

impl OwnCommand for Man {
    fn command(&self) -> Command {
        let directory = Arg::new("directory")
            .long("directory")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::DirPath)
            .help("Write the pages of all commands into this directory");
        Command::new("man").about("Print lbctl's man page (lbctl man | man -l -)").arg(directory)
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        match matches.get_one::<PathBuf>("directory") {
            Some(directory) => generate_to(lbctl(), directory)?,
            None => Page::new(lbctl()).render(&mut context.output)?,
        }
        Ok(0)
    }
}
