//! `conntrack` as of version 1.4.7: the same command lines, messages, exit codes and listings, of `lbd`'s connections.
//!
//! [`run`] is the whole command. `request` reads a line, a [`Tracker`] does it, `print` shows. What is the same, what is better
//! and what is not there yet is listed in `docs/conntrack.md`.

mod create;
mod expected;
mod getopt;
mod load;
mod options;
mod print;
mod request;

use std::io::{self, Write};

use super::director::DirectorError;
use super::labels::LabelNames;
use crate::api::conntrack::{
    ConntrackChange, ConntrackEvent, ConntrackNew, ConntrackStatistics, Expectation, ExpectationEvent,
    ExpectationFilter, ExpectationNew, Filter, Tracked,
};
use crate::api::types::ErrorKind;
pub use load::{file, load};
use options::Verb;
use print::{Printer, VERSION};
use request::{Request, Table};

/// Of usage errors.
const USAGE: u8 = 2;
/// Of all others, and of nothing to delete.
const FAILED: u8 = 1;

/// Where connections go, one by one.
pub type Each<'a> = &'a mut dyn FnMut(Tracked) -> io::Result<()>;

/// What the kernel's connection tracking is to conntrack.
pub trait Tracker {
    /// Gives each connection that the filter fits to `each`, as it comes.
    ///
    /// # Errors
    /// The first one of `each`, or no answer.
    fn tracked(&mut self, filter: &Filter, each: Each<'_>) -> Result<(), DirectorError>;

    /// As [`Tracker::tracked`], and ends them.
    ///
    /// # Errors
    /// As there; some may be ended.
    fn end_tracked(&mut self, filter: &Filter, each: Each<'_>) -> Result<(), DirectorError>;

    /// As [`Tracker::tracked`], and changes them; those that are as they were are not given.
    ///
    /// # Errors
    /// As there, or a change that cannot be.
    fn change_tracked(
        &mut self,
        filter: &Filter,
        change: &ConntrackChange,
        each: Each<'_>,
    ) -> Result<(), DirectorError>;

    /// Begins a connection without a packet.
    ///
    /// # Errors
    /// `Refused` with `ConnectionExists` when there is one already, or with why there can be none.
    fn begin_tracked(&mut self, new: &ConntrackNew) -> Result<(), DirectorError>;

    /// Gives each connection that is expected, of those that the filter fits, to `each`.
    ///
    /// # Errors
    /// As [`Tracker::tracked`].
    fn expected(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(Expectation) -> io::Result<()>,
    ) -> Result<(), DirectorError>;

    /// As [`Tracker::expected`], and they are expected no more.
    ///
    /// # Errors
    /// As there; some may be ended.
    fn end_expected(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(Expectation) -> io::Result<()>,
    ) -> Result<(), DirectorError>;

    /// Has a connection's helper expect another one.
    ///
    /// # Errors
    /// `Refused` with why there can be none.
    fn announce(&mut self, new: &ExpectationNew) -> Result<(), DirectorError>;

    /// Gives each event of one that is expected, which the filter fits, as it happens, without end.
    ///
    /// # Errors
    /// The first one of `each`, or no answer.
    fn expectation_events(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(ExpectationEvent) -> io::Result<()>,
    ) -> Result<(), DirectorError>;

    /// Gives each event of a connection that the filter fits, as it happens, without end.
    ///
    /// # Errors
    /// The first one of `each`, or no answer.
    fn events(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(ConntrackEvent) -> io::Result<()>,
    ) -> Result<(), DirectorError>;

    /// How many connections there are.
    ///
    /// # Errors
    /// When there is no answer.
    fn count(&mut self) -> Result<u64, DirectorError>;

    /// # Errors
    /// When there is no answer.
    fn statistics(&mut self) -> Result<Vec<ConntrackStatistics>, DirectorError>;
}

/// Why a line is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stop {
    code: u8,
    message: String,
    /// Where there is help.
    has_hint: bool,
}

impl Stop {
    fn usage(message: impl Into<String>) -> Stop {
        Stop { code: USAGE, message: message.into(), has_hint: true }
    }

    fn failed(why: &str) -> Stop {
        Stop { code: FAILED, message: format!("Operation failed: {why}"), has_hint: false }
    }
}

impl From<DirectorError> for Stop {
    fn from(error: DirectorError) -> Stop {
        let message = match error {
            // The reader of the listing has seen enough.
            DirectorError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => String::new(),
            other => other.to_string(),
        };
        Stop { code: FAILED, message, has_hint: false }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        DirectorError::Output(error).into()
    }
}

/// Does one command line (without the program's name) and returns its exit code.
pub fn run(
    words: &[String],
    tracker: &mut dyn Tracker,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    run_with_names(words, LabelNames::of_system(), tracker, output, errors)
}

/// The same where labels have these names.
pub fn run_with_names(
    words: &[String],
    names: &LabelNames,
    tracker: &mut dyn Tracker,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let request = request::parse(words, names, &mut |warning| {
        let _ = writeln!(errors, "{warning}");
    });
    let done = request.and_then(|request| done(&request, names, tracker, output));
    finish(done, output, errors)
}

/// Says what there is to say at the end, and gives the exit code.
fn finish(done: Result<Done, Stop>, output: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let (code, message, has_hint) = match done {
        Ok(Done { code, message }) => (code, message.unwrap_or_default(), false),
        Err(Stop { code, message, has_hint }) => (code, message, has_hint),
    };
    // Nobody is left to tell when standard error is closed.
    if !message.is_empty() {
        let _ = output.flush();
        let _ = writeln!(errors, "conntrack v{VERSION} (conntrack-tools): {message}");
    }
    if has_hint {
        let _ = writeln!(errors, "Try `conntrack -h' or 'conntrack --help' for more information.");
    }
    code
}

/// What is said at the end.
struct Done {
    code: u8,
    message: Option<String>,
}

fn said(code: u8, message: impl Into<String>) -> Result<Done, Stop> {
    Ok(Done { code, message: Some(message.into()) })
}

const SILENT: Done = Done { code: 0, message: None };

fn done(
    request: &Request,
    names: &LabelNames,
    tracker: &mut dyn Tracker,
    output: &mut dyn Write,
) -> Result<Done, Stop> {
    let Request { verb, table, filter, change, new, announced, events, format, .. } = request;
    match (verb, table) {
        (Verb::Help, _) => print::help(output)?,
        (Verb::Version, _) => writeln!(output, "conntrack v{VERSION} (conntrack-tools)")?,
        (Verb::List, Table::Connections) => {
            let mut printer = Printer::new(output, *format, names);
            let mut each = |tracked: Tracked| printer.print(&tracked);
            match change.zero {
                true => tracker.change_tracked(filter, change, &mut each)?,
                false => tracker.tracked(filter, &mut each)?,
            }
            printer.end()?;
            return said(0, format!("{} flow entries have been shown.", printer.count));
        }
        (Verb::List, Table::Between) => return said(0, "0 flow entries have been shown."),
        (Verb::Get, Table::Connections) => {
            let mut printer = Printer::new(output, *format, names);
            tracker.tracked(filter, &mut |tracked| printer.print(&tracked))?;
            printer.end()?;
            return match printer.count {
                0 => Err(Stop::failed("such conntrack doesn't exist")),
                count => said(0, format!("{count} flow entries have been shown.")),
            };
        }
        (Verb::Delete, Table::Connections) => {
            let mut printer = Printer::without_frame(output, *format, names);
            tracker.end_tracked(filter, &mut |tracked| printer.print(&tracked))?;
            printer.end()?;
            let code = if printer.count == 0 { FAILED } else { 0 };
            return said(code, format!("{} flow entries have been deleted.", printer.count));
        }
        (Verb::Update, Table::Connections) => {
            let mut printer = Printer::without_frame(output, *format, names);
            tracker.change_tracked(filter, change, &mut |tracked| printer.print(&tracked))?;
            printer.end()?;
            let code = if printer.count == 0 { FAILED } else { 0 };
            return said(code, format!("{} flow entries have been updated.", printer.count));
        }
        (Verb::Create | Verb::Add, Table::Connections) => {
            let Some(new) = new else { return Err(Stop::failed("invalid parameters")) };
            return begun(*verb, tracker.begin_tracked(new));
        }
        (Verb::Event, Table::Connections) => {
            let mut printer = Printer::new(output, *format, names);
            tracker.events(filter, &mut |event| match events.contains(&event.event) {
                true => printer.event(&event),
                false => Ok(()),
            })?;
            printer.end()?;
            return said(0, format!("{} flow events have been shown.", printer.count));
        }
        (Verb::Flush, Table::Connections) => {
            tracker.end_tracked(filter, &mut |_| Ok(()))?;
            return said(0, "connection tracking table has been emptied.");
        }
        (Verb::Count, Table::Connections) => writeln!(output, "{}", tracker.count()?)?,
        (Verb::Statistics, Table::Connections) => print::statistics(output, &tracker.statistics()?)?,
        (verb, Table::Expectations) => {
            return expected::done(*verb, filter, announced.as_ref(), *format, tracker, output);
        }
        (_, Table::Between) => {}
    }
    Ok(SILENT)
}

/// What is said of a connection that was to be: `-A` takes one that is there already for done.
fn begun(verb: Verb, outcome: Result<(), DirectorError>) -> Result<Done, Stop> {
    let word = if verb == Verb::Add { "added" } else { "created" };
    match outcome {
        Ok(()) => said(0, format!("1 flow entries have been {word}.")),
        Err(DirectorError::Refused(refused)) if refused.error == ErrorKind::ConnectionExists => match verb {
            Verb::Add => said(0, format!("0 flow entries have been {word}.")),
            _ => Err(Stop::failed("Such conntrack exists, try -U to update")),
        },
        Err(error) => Err(error.into()),
    }
}
