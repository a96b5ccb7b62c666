//! `lbctl status`: is the daemon well, and how full is it?

use clap::{ArgMatches, Command};

use super::{Context, Failure, OwnCommand, json};
use crate::api::types::Status as Answer;

pub(super) struct Status;

impl OwnCommand for Status {
    fn command(&self) -> Command {
        Command::new("status")
            .about("Is lbd well, and how full is it? Exit code 1 when it is not ready")
            .arg(json())
    }

    fn run(&self, matches: &ArgMatches, context: &mut Context<'_>) -> Result<u8, Failure> {
        let status: Answer = context.client()?.get("/v1/status")?;
        let code = u8::from(!status.ready);
        if matches.get_flag("json") {
            context.print_json(&status)?;
            return Ok(code);
        }
        let out = &mut *context.output;
        let state = if status.ready { "ready" } else { "not ready" };
        writeln!(out, "lbd {}, process {}, up {}: {state}", status.version, status.pid, span(status.uptime))?;
        for problem in &status.problems {
            writeln!(out, "  {problem}")?;
        }
        for alarm in &status.alarms {
            writeln!(out, "  alarm: {alarm}")?;
        }
        writeln!(out, "config       {}", status.config)?;
        writeln!(out, "tables       generation {}", status.generation)?;
        writeln!(out, "services     {}, real servers {}", status.services, status.servers)?;
        writeln!(out, "connections  {} of {}", status.connections, status.max_connections)?;
        for service in &status.syn_cookies {
            writeln!(out, "SYN cookies  {service}")?;
        }
        for service in &status.by_hash {
            writeln!(out, "by hash      {service}")?;
        }
        Ok(code)
    }
}

/// Seconds as days, hours, minutes, seconds.
fn span(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    if days == 0 { clock } else { format!("{days} d {clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_easy_to_read() {
        assert_eq!(span(59), "00:00:59");
        assert_eq!(span(86_400 + 3_661), "1 d 01:01:01");
    }
}
