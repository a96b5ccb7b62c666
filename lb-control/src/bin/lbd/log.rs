//! What `lbd` logs, and where to: standard error, as much as `LBD_LOG` says. Where that is systemd's journal each line begins with its
//! priority, as sd-daemon(3) has it.

use std::fmt::{self, Debug, Write as _};
use std::io::IsTerminal;

use lb_control::arguments::LOG_VARIABLE;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Packets that rules have logged are told whatever their level: the rule has asked for it.
const USUAL: &str = "info,netfilter=trace";
const LEVELS: &str = "off, error, warn, info, debug and trace";
/// Of what rules say.
const NETFILTER: &str = "netfilter";

pub(crate) fn to_stderr() {
    let wanted = std::env::var_os(LOG_VARIABLE).unwrap_or_default();
    let (filter, problem) = filter(&wanted.to_string_lossy());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(Lines::new(is_journal()))
        .init();
    if let Some(problem) = problem {
        warn!("{problem}");
    }
}

/// Whether standard error goes to the journal: systemd says so by the file's numbers.
///
/// Source: systemd.exec(5), `JOURNAL_STREAM`.
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|file| said == format!("{}:{}", file.st_dev, file.st_ino))
}

/// How a line is written.
struct Lines {
    is_journal: bool,
    timed: Format<Full, SystemTime>,
    /// The journal has times of its own.
    untimed: Format<Full, ()>,
}

impl Lines {
    fn new(is_journal: bool) -> Lines {
        let timed = Format::default().with_target(false);
        Lines { is_journal, untimed: timed.clone().without_time(), timed }
    }
}

/// The kernel's line about a packet, and its priority.
#[derive(Default)]
struct OfRule {
    priority: Option<u64>,
    line: String,
}

impl Visit for OfRule {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "priority" {
            self.priority = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            let _ = write!(self.line, "{value:?}");
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let usual = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        if event.metadata().target() == NETFILTER {
            let mut of_rule = OfRule::default();
            event.record(&mut of_rule);
            let OfRule { priority, line } = of_rule;
            if self.is_journal {
                return writeln!(writer, "<{}>{line}", priority.unwrap_or(usual));
            }
            SystemTime.format_time(&mut writer)?;
            return writeln!(writer, " {level:>5} {NETFILTER}: {line}");
        }
        if self.is_journal {
            write!(writer, "<{usual}>")?;
            return self.untimed.format_event(context, writer, event);
        }
        self.timed.format_event(context, writer, event)
    }
}

/// What is logged, and what is wrong with `wanted`. Nothing wanted is nothing said.
fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    let wanted = wanted.trim();
    let usual = || EnvFilter::new(USUAL);
    if wanted.is_empty() {
        return (usual(), None);
    }
    let with_rules = |said: &str| {
        let is_said = said.contains(NETFILTER) || said.split(',').any(|part| part.trim() == "off");
        if is_said { said.to_owned() } else { format!("{said},{NETFILTER}=trace") }
    };
    // A bare word that is no level would be the name of a module, of which there is none mostly: silence.
    let is_known = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    match EnvFilter::try_new(with_rules(wanted)) {
        Ok(filter) if wanted.split(',').all(is_known) => (filter, None),
        _ => {
            let problem = format!(
                "{LOG_VARIABLE}: {wanted:?} is no level, those are {LEVELS} (lb_control=debug: of a module); it is info"
            );
            (usual(), Some(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn levels_and_directives_are_taken_as_they_are() {
        for (wanted, has) in [
            ("", "netfilter=trace,info"),
            (" ", "netfilter=trace,info"),
            ("warn", "netfilter=trace,warn"),
            ("DEBUG", "netfilter=trace,debug"),
            ("off", "off"),
            ("warn,netfilter=off", "netfilter=off,warn"),
            ("lb_control=debug", "lb_control=debug,netfilter=trace"),
            ("warn,lb_control::twin=trace", "lb_control::twin=trace,netfilter=trace,warn"),
        ] {
            let (filter, problem) = filter(wanted);
            assert_eq!((filter.to_string().as_str(), problem), (has, None), "{wanted:?}");
        }
    }

    #[test]
    fn what_is_no_level_is_named_and_silences_nothing() {
        for wanted in ["inof", "verbose", "lb_control=loud", "warn,loud"] {
            let (filter, problem) = filter(wanted);
            assert_eq!(filter.to_string(), "netfilter=trace,info", "{wanted}");
            let problem = problem.expect(wanted);
            let said =
                format!("LBD_LOG: {wanted:?} is no level, those are off, error, warn, info, debug and trace");
            assert!(problem.starts_with(&said), "{problem}");
        }
    }

    /// What is written while `log` runs.
    fn written(is_journal: bool, log: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let out = out.clone();
            move || Sink(out.clone())
        };
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(writer)
            .with_ansi(false)
            .event_format(Lines::new(is_journal))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = out.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_the_priority_of_a_line_and_of_a_rules_packet_the_rules() {
        let log = || {
            warn!(port = "wan", "no link");
            tracing::debug!(target: "netfilter", priority = 7_u64, "x IN=wan OUT= ");
            tracing::error!(target: "netfilter", priority = 1_u64, "IN=wan");
        };
        assert_eq!(written(true, log), "<4> WARN no link port=\"wan\"\n<7>x IN=wan OUT= \n<1>IN=wan\n");
        let plain = written(false, log);
        let ends: Vec<&str> = plain.lines().map(|line| line.split_once("Z ").expect("a time").1).collect();
        assert_eq!(
            ends,
            [" WARN no link port=\"wan\"", "DEBUG netfilter: x IN=wan OUT= ", "ERROR netfilter: IN=wan"]
        );
    }
}
