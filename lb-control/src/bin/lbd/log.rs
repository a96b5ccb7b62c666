//! What `lbd` logs, and where to: standard error, as much as `LBD_LOG` says.

use std::io::IsTerminal;

use lb_control::arguments::LOG_VARIABLE;
use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::EnvFilter;

const USUAL: &str = "info";
const LEVELS: &str = "off, error, warn, info, debug and trace";

pub(crate) fn to_stderr() {
    let wanted = std::env::var_os(LOG_VARIABLE).unwrap_or_default();
    let (filter, problem) = filter(&wanted.to_string_lossy());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if let Some(problem) = problem {
        warn!("{problem}");
    }
}

/// What is logged, and what is wrong with `wanted`. Nothing wanted is nothing said.
fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    let wanted = wanted.trim();
    let usual = || EnvFilter::new(USUAL);
    if wanted.is_empty() {
        return (usual(), None);
    }
    // A bare word that is no level would be the name of a module, of which there is none mostly: silence.
    let is_known = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    match EnvFilter::try_new(wanted) {
        Ok(filter) if wanted.split(',').all(is_known) => (filter, None),
        _ => {
            let problem = format!(
                "{LOG_VARIABLE}: {wanted:?} is no level, those are {LEVELS} (lb_control=debug: of a module); it is {USUAL}"
            );
            (usual(), Some(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_as_they_are() {
        for (wanted, has) in [
            ("", "info"),
            (" ", "info"),
            ("warn", "warn"),
            ("DEBUG", "debug"),
            ("off", "off"),
            ("lb_control=debug", "lb_control=debug"),
            ("warn,lb_control::twin=trace", "lb_control::twin=trace,warn"),
        ] {
            let (filter, problem) = filter(wanted);
            assert_eq!((filter.to_string().as_str(), problem), (has, None), "{wanted:?}");
        }
    }

    #[test]
    fn what_is_no_level_is_named_and_silences_nothing() {
        for wanted in ["inof", "verbose", "lb_control=loud", "warn,loud"] {
            let (filter, problem) = filter(wanted);
            assert_eq!(filter.to_string(), "info", "{wanted}");
            let problem = problem.expect(wanted);
            let said =
                format!("LBD_LOG: {wanted:?} is no level, those are off, error, warn, info, debug and trace");
            assert!(problem.starts_with(&said), "{problem}");
        }
    }
}
