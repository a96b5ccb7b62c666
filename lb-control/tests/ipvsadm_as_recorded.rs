//! Goal: `ipvsadm` prints and returns what the kernel's own does, byte by byte.
//!
//! Method: the recorded command lines are given in order to the command, once with a model as its director and once with
//! the daemon's API on a real socket. Output and exit code must be equal; where the kernel lists in another order at each boot, the
//! lines of the output.

mod recording;
mod support;

use std::io;
use std::net::Ipv4Addr;

use lb_control::api::connections::ConnectionFilter;
use lb_control::api::types::{
    Batch, BatchReply, Command, Connection, ErrorBody, ErrorKind, Failure, ServiceAddress, ServiceView,
    SyncDaemon, Timeouts, Transport,
};
use lb_control::cli::client::Client;
use lb_control::cli::director::{Director, DirectorError};
use lb_control::cli::ipvsadm::{self, Lookup, Surroundings};
use lb_control::model::{self, Limits, Model};
use recording::Vector;
use serde::Deserialize;
use support::Daemon;

#[derive(Deserialize)]
struct Line {
    prog: String,
    #[serde(flatten)]
    vector: Vector,
}

/// A director that has no packets.
struct InProcess(Model);

impl InProcess {
    fn new() -> InProcess {
        InProcess(Model::new(Limits { services: 1000, servers: 1000 }))
    }
}

impl Director for InProcess {
    fn run(&mut self, batch: Batch) -> Result<BatchReply, DirectorError> {
        let mut reply = BatchReply::default();
        for (index, command) in batch.commands.iter().enumerate() {
            let done = match command {
                Command::StartSync(daemon) if !support::has_interface(&daemon.interface) => {
                    Err(ErrorBody::new(ErrorKind::NoSuchDevice, "no such interface"))
                }
                command => self.0.apply(command),
            };
            match done {
                Ok(_) => reply.done += 1,
                Err(error) => reply.failed.push(Failure { index, error }),
            }
        }
        Ok(reply)
    }

    fn services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        let services: Vec<_> = match only {
            None => self.0.services().collect(),
            Some(address) => vec![self.0.find(&address).ok_or_else(|| {
                DirectorError::Refused(ErrorBody::new(ErrorKind::NoSuchService, "no such service"))
            })?],
        };
        Ok(services.into_iter().map(|service| model::service_view(service)).collect())
    }

    fn timeouts(&mut self) -> Result<Timeouts, DirectorError> {
        Ok(self.0.timeouts())
    }

    fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, DirectorError> {
        Ok(self.0.sync_daemons().cloned().collect())
    }

    fn connections(
        &mut self,
        _filter: &ConnectionFilter,
        _each: &mut dyn FnMut(Connection) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        Ok(())
    }
}

/// The names of ports that the recording has, for TCP and UDP alike.
const PORTS: [(&str, u16); 10] = [
    ("http", 80),
    ("https", 443),
    ("ftp", 21),
    ("smtp", 25),
    ("domain", 53),
    ("sip", 5060),
    ("sip-tls", 5061),
    ("http-alt", 8080),
    ("tproxy", 8081),
    ("mdns", 5353),
];

/// What the recording machine knew of hosts and ports.
struct Known;

impl Lookup for Known {
    fn address(&self, host: &str) -> Option<Ipv4Addr> {
        (host == "localhost").then_some(Ipv4Addr::LOCALHOST)
    }

    fn host(&self, address: Ipv4Addr) -> Option<String> {
        (address == Ipv4Addr::LOCALHOST).then(|| "localhost".to_owned())
    }

    fn port(&self, service: &str, _: Transport) -> Option<u16> {
        PORTS.iter().find(|(name, _)| *name == service).map(|(_, port)| *port)
    }

    fn service(&self, port: u16, transport: Transport) -> Option<String> {
        let known = PORTS.iter().find(|(_, number)| *number == port && transport != Transport::Sctp);
        known.map(|(name, _)| (*name).to_owned())
    }
}

/// Vectors that are equal, and what is not about the others.
fn replay(recording: &str, director: &mut dyn Director) -> (usize, Vec<String>) {
    let mut equal = 0;
    let mut different = Vec::new();
    for Line { prog, vector } in &recording::read::<Line>(recording) {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let stdin = vector.stdin.clone().unwrap_or_default();
        let mut input = stdin.as_bytes();
        let mut around =
            Surroundings { names: &Known, input: &mut input, output: &mut output, errors: &mut errors };
        let code = match prog.as_str() {
            "ipvsadm" => ipvsadm::run(&vector.argv, director, &mut around),
            "ipvsadm-save" => ipvsadm::run_save(&vector.argv, director, &mut around),
            other => panic!("{}: {other} is not replayed", vector.n),
        };
        let mut output = String::from_utf8(output).expect("text");
        let errors = String::from_utf8(errors).expect("text");
        if vector.usage_text_follows_in.is_some() {
            let first = output.find('\n').map_or(output.len(), |end| end + 1);
            assert!(output.len() > first, "{}: there is no usage text", vector.n);
            output.truncate(first);
        }
        // The kernel lists services by its hash table, which has another key at each boot.
        let lines = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            if !vector.stable_across_boots {
                lines.sort();
            }
            lines
        };
        let is_same = output == vector.stdout || lines(&output) == lines(&vector.stdout);
        if code == vector.rc && errors == vector.stderr && is_same {
            equal += 1;
        } else {
            different.push(format!(
                "{} {prog} {}\n  expected {} {:?} {:?}\n  got      {code} {errors:?} {output:?}",
                vector.n,
                vector.argv.join(" "),
                vector.rc,
                vector.stderr,
                vector.stdout
            ));
        }
    }
    (equal, different)
}

/// All `vectors` of the recording are equal.
fn check(name: &str, (recording, vectors): (&str, usize), director: &mut dyn Director) {
    let (equal, different) = replay(recording, director);
    assert!(different.is_empty(), "{name}:\n{}", different.join("\n"));
    assert_eq!(equal, vectors, "{name}");
}

const LINES: (&str, usize) = (include_str!("oracle/cli.json"), 392);
const MORE_LINES: (&str, usize) = (include_str!("oracle/cli_daemon_misc.json"), 75);

#[test]
fn command_lines_do_as_recorded() {
    check("cli.json", LINES, &mut InProcess::new());
}

#[test]
fn daemons_limits_and_edits_do_as_recorded() {
    check("cli_daemon_misc.json", MORE_LINES, &mut InProcess::new());
}

#[test]
fn all_of_it_does_as_recorded_over_the_api() {
    for (name, lines) in [("cli.json", LINES), ("cli_daemon_misc.json", MORE_LINES)] {
        let daemon = Daemon::start(Vec::new());
        let mut client = Client::new(&daemon.socket()).expect("a client");
        check(name, lines, &mut client);
    }
}
