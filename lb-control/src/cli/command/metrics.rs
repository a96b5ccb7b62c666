//! `lbctl metrics`: what Prometheus would get.

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand};

pub(super) struct Metrics;

impl OwnCommand for Metrics {
    fn command(&self) -> Command {
        Command::new("metrics").about("All metrics, as Prometheus gets them")
    }

    fn run(&self, _matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        context.client()?.copy("/metrics", context.output)?;
        Ok(0)
    }
}
