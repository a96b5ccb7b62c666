//! `ipvsadm` as of version 1.31: the same command lines, messages, exit codes and listings, from another director.
//!
//! [`run`] is the whole command. `request` reads a line, the [`Director`] does it, `list` prints. What is the same, what
//! is better and what is not there yet is listed in `docs/ipvsadm.md`.

mod address;
mod help;
mod list;
mod names;
mod options;
mod popt;
mod request;
#[cfg(test)]
mod round_trip;
mod words;

use std::io::{self, BufRead, Write};

pub use names::{Lookup, System};

use super::director::{Director, DirectorError};
use crate::api::connections::ConnectionFilter;
use crate::api::types::{Batch, Command, ErrorBody, ErrorKind, OnError, ServiceView};
use names::Names;
use request::{Format, Request};

/// Of usage errors.
const USAGE: u8 = 2;
/// Of the director's errors (the kernel's -1), and of a line that cannot be read.
const FAILED: u8 = 255;
/// Of a listing of what is not there.
const NOTHING: u8 = 1;
/// Lines of a restore that go to the daemon together.
const TOGETHER: usize = 10_000;

/// Why a line is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stop {
    code: u8,
    message: String,
    /// A restore goes on with its next line.
    only_this_line: bool,
}

impl Stop {
    fn usage(message: impl Into<String>) -> Stop {
        Stop { code: USAGE, message: message.into(), only_this_line: false }
    }

    fn try_help() -> Stop {
        let message = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.".to_owned();
        Stop { code: FAILED, message, only_this_line: false }
    }

    fn line(message: String) -> Stop {
        Stop { code: FAILED, message, only_this_line: true }
    }

    /// The end of a listing.
    fn listing(error: &DirectorError) -> Stop {
        let code = match error {
            DirectorError::Refused(_) | DirectorError::Output(_) => NOTHING,
            _ => FAILED,
        };
        Stop { code, message: message(error), only_this_line: false }
    }
}

const NOT_FOUND: &str = "Scheduler or persistence engine not found";

/// The kernel's words for its own errors, ours for others (libipvs).
fn refusal(error: &ErrorBody) -> &str {
    match error.error {
        ErrorKind::ServiceExists => "Service already exists",
        ErrorKind::NoSuchService => "No such service",
        ErrorKind::ServiceNotDefined => "Service not defined",
        ErrorKind::ServerExists => "Destination already exists",
        ErrorKind::NoSuchServer => "No such destination",
        ErrorKind::OutOfRange => "Numerical result out of range",
        ErrorKind::UnknownScheduler => NOT_FOUND,
        ErrorKind::SyncRuns => "Daemon has already run",
        ErrorKind::NoSync => "No daemon is running",
        ErrorKind::NoSuchDevice => "No such device",
        ErrorKind::InvalidOperation => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ..."
        }
        _ => &error.message,
    }
}

fn message(error: &DirectorError) -> String {
    match error {
        DirectorError::Refused(body) => refusal(body).to_owned(),
        // The reader of the listing has seen enough.
        DirectorError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => String::new(),
        other => format!("ipvsadm: {other}"),
    }
}

/// What a command has to do with besides its director.
pub struct Surroundings<'a> {
    pub names: &'a dyn Lookup,
    pub input: &'a mut dyn BufRead,
    pub output: &'a mut dyn Write,
    pub errors: &'a mut dyn Write,
}

/// Does one command line (without the program's name) and returns its exit code.
pub fn run(words: &[String], director: &mut dyn Director, around: &mut Surroundings<'_>) -> u8 {
    Session::whole(director, around, |session| {
        let request = match words {
            [] => Ok(Request::ListServices(Format::default(), None)),
            words => request::parse(words, &session.names),
        };
        request.and_then(|request| match request {
            Request::Restore => session.restore(|_| true),
            request => session.run(request),
        })
    })
}

/// `ipvsadm-save`: `-n` for numbers.
pub fn run_save(words: &[String], director: &mut dyn Director, around: &mut Surroundings<'_>) -> u8 {
    let mut line = vec!["-S".to_owned()];
    for word in words {
        if word != "-n" {
            return script_usage(word, "ipvsadm-save [-n] > FILE", around);
        }
        line.push(word.clone());
    }
    run(&line, director, around)
}

/// `ipvsadm-restore`: command lines from standard input make the whole table. As Debian's script of that name does, it begins
/// with `-C` and passes over lines that begin with `#`.
pub fn run_restore(words: &[String], director: &mut dyn Director, around: &mut Surroundings<'_>) -> u8 {
    match words.first() {
        Some(word) => script_usage(word, "ipvsadm-restore < FILE", around),
        None => Session::whole(director, around, |session| {
            session.run(Request::Change(Command::Flush))?;
            session.restore(|line| !line.starts_with('#'))
        }),
    }
}

/// Command lines that make the services again, all of it: `ipvsadm -S` forgets thresholds.
///
/// # Errors
/// The first of `output`.
pub fn save_all(output: &mut dyn Write, services: Vec<ServiceView>) -> io::Result<()> {
    let format = Format { numeric: true, ..Format::default() };
    list::save(output, services, format, &Names::new(&System), true)
}

/// A usage line; exit 0 when it was asked for.
fn script_usage(word: &str, usage: &str, around: &mut Surroundings<'_>) -> u8 {
    let asked = matches!(word, "-h" | "--help");
    let written = if asked {
        writeln!(around.output, "Usage: {usage}")
    } else {
        writeln!(around.errors, "{word}: unknown option; usage: {usage}")
    };
    u8::from(!asked || written.is_err())
}

struct Session<'a, 'b> {
    director: &'a mut dyn Director,
    around: &'a mut Surroundings<'b>,
    names: Names<'b>,
    /// Changes read and not sent yet: a restore sends many at a time.
    pending: Vec<Command>,
    /// Of the last line.
    result: u8,
}

impl<'a, 'b> Session<'a, 'b> {
    /// Has `work` done from beginning to end; returns the exit code.
    fn whole(
        director: &'a mut dyn Director,
        around: &'a mut Surroundings<'b>,
        work: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) -> u8 {
        let names = Names::new(around.names);
        let mut session = Session { director, around, names, pending: Vec::new(), result: 0 };
        let done = work(&mut session);
        let done = match session.send() {
            Ok(()) => done,
            Err(stop) => done.and(Err(stop)),
        };
        match done {
            Ok(()) => session.result,
            Err(stop) => {
                session.complain(&stop.message);
                stop.code
            }
        }
    }

    fn complain(&mut self, message: &str) {
        if message.is_empty() {
            return;
        }
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(self.around.errors, "{message}");
    }

    /// A restore goes on after the director's errors and ends at the first line that it cannot read, or that asks for help.
    /// `is_read` says which lines are.
    fn restore(&mut self, is_read: impl Fn(&str) -> bool) -> Result<(), Stop> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match self.around.input.read_until(b'\n', &mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Stop::line(format!("ipvsadm: standard input: {error}"))),
            }
            let line = String::from_utf8_lossy(&bytes);
            let words: Vec<String> =
                line.split_ascii_whitespace().filter(|&word| word != "ipvsadm").map(str::to_owned).collect();
            if words.is_empty() || !is_read(&line) {
                continue;
            }
            let done = match request::parse_saved(&words, &self.names) {
                Ok(Request::Restore) => Err(Stop::try_help()),
                Ok(request @ (Request::Help | Request::Version)) => return self.run(request),
                Ok(request) => self.run(request),
                Err(stop) => Err(stop),
            };
            match done {
                Ok(()) => {}
                Err(stop) if stop.only_this_line => {
                    self.send()?;
                    self.complain(&stop.message);
                    self.result = stop.code;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    fn run(&mut self, request: Request) -> Result<(), Stop> {
        if let Request::Change(command) = request {
            self.pending.push(command);
            return if self.pending.len() < TOGETHER { Ok(()) } else { self.send() };
        }
        self.send()?;
        self.result = 0;
        let output = &mut *self.around.output;
        let written = match request {
            Request::Help => help::print(output),
            Request::Version => help::version(output),
            Request::ListServices(format, only) => {
                let services = self.director.services(only).map_err(|error| Stop::listing(&error))?;
                let version = if only.is_none() { list::version(output) } else { Ok(()) };
                version.and_then(|()| list::services(output, services, format, &self.names))
            }
            Request::Save(format) => {
                let services = self.director.whole_services(None).map_err(|error| Stop::listing(&error))?;
                list::save(output, services, format, &self.names, false)
            }
            Request::ListConnections(format) => {
                // No title over an error.
                let mut titled = false;
                let done = self.director.connections(&ConnectionFilter::default(), &mut |connection| {
                    if !std::mem::replace(&mut titled, true) {
                        list::connections_title(output, format)?;
                    }
                    list::connection(output, &connection, format, &self.names)
                });
                done.map_err(|error| Stop::listing(&error))?;
                if titled { Ok(()) } else { list::connections_title(output, format) }
            }
            Request::ListTimeouts => {
                let timeouts = self.director.timeouts().map_err(|error| Stop::listing(&error))?;
                list::timeouts(output, timeouts)
            }
            Request::ListDaemons => {
                let daemons = self.director.sync_daemons().map_err(|error| Stop::listing(&error))?;
                list::sync_daemons(output, &daemons)
            }
            Request::Restore | Request::Change(_) => return Err(Stop::try_help()),
        };
        written.map_err(|error| Stop::listing(&error.into()))
    }

    /// Sends what is pending and tells what the director did not like.
    fn send(&mut self) -> Result<(), Stop> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let commands = std::mem::take(&mut self.pending);
        let last = commands.len() - 1;
        let batch = Batch { commands, on_error: OnError::Continue };
        let reply = match self.director.run(batch) {
            Ok(reply) => reply,
            Err(error) => return Err(Stop { code: FAILED, message: message(&error), only_this_line: false }),
        };
        self.result = 0;
        for failure in &reply.failed {
            self.complain(refusal(&failure.error));
            if failure.index == last {
                self.result = FAILED;
            }
        }
        Ok(())
    }
}
