//! Goal: `ipvsadm` prints and returns what the kernel's own does, byte by byte, for all that is built.
//!
//! Method: the recorded command lines are given in order to the command, once with a model as its director and once with
//! the daemon's API on a real socket. Output and exit code must be equal. A difference is excused only when the line itself, or an earlier line about the same service or
//! real server, asks for what is not built: which those are is decided here from the words of the line, not from what
//! the command says. Listings are compared without the lines of such services and real servers.

mod recording;
mod support;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use lb_control::api::types::{
    Batch, BatchReply, Command, Connection, Counts, ErrorBody, ErrorKind, Failure, Rates, ServerView,
    ServiceAddress, ServiceView, SyncDaemon, Timeouts, Transport,
};
use lb_control::cli::client::Client;
use lb_control::cli::director::{Director, DirectorError};
use lb_control::cli::ipvsadm::{self, Lookup, Surroundings};
use lb_control::model::{self, Limits, Model};
use lb_core::tables::Service;
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
        let view = |service: &Arc<Service>| ServiceView {
            spec: model::service_spec(service),
            counts: Counts::default(),
            rates: Rates::default(),
            servers: service
                .servers
                .iter()
                .map(|server| ServerView {
                    spec: model::server_spec(service, server),
                    active: 0,
                    inactive: 0,
                    persistent: 0,
                    overloaded: false,
                    counts: Counts::default(),
                    rates: Rates::default(),
                })
                .collect(),
        };
        Ok(services.into_iter().map(view).collect())
    }

    fn timeouts(&mut self) -> Result<Timeouts, DirectorError> {
        Ok(self.0.timeouts())
    }

    fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, DirectorError> {
        Ok(self.0.sync_daemons().cloned().collect())
    }

    fn connections(
        &mut self,
        _each: &mut dyn FnMut(Connection) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        Ok(())
    }
}

/// What differs from the recording because an earlier line was refused.
#[derive(Default)]
struct Excused {
    services: BTreeSet<String>,
    servers: BTreeSet<(String, String)>,
}

/// What a line is about, in one spelling.
struct Subject {
    service: Option<String>,
    server: Option<String>,
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

/// An endpoint of the recording in numbers.
fn numeric(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let host = match host {
        "localhost" => "127.0.0.1",
        "1.2.3" => "1.2.0.3",
        other => other,
    };
    match Known.port(port, Transport::Tcp) {
        Some(port) => format!("{host}:{port}"),
        None => format!("{host}:{port}"),
    }
}

fn argument<'a>(argv: &'a [String], options: &[&str]) -> Option<&'a str> {
    let at = argv.iter().position(|word| options.contains(&word.as_str()))?;
    argv.get(at + 1).map(String::as_str)
}

fn has(argv: &[String], options: &[&str]) -> bool {
    argv.iter().any(|word| options.contains(&word.split('=').next().unwrap_or(word)))
}

fn subject(argv: &[String]) -> Subject {
    let kinds: [(&str, &[&str]); 3] =
        [("TCP", &["-t", "--tcp-service"]), ("UDP", &["-u", "--udp-service"]), ("SCTP", &["--sctp-service"])];
    let mut service = None;
    let mut port = String::new();
    for (kind, options) in kinds {
        if let Some(text) = argument(argv, options) {
            let bare = !text.starts_with('[') && text.matches(':').count() != 1;
            let at = if bare { format!("{text}:0") } else { numeric(text) };
            port = at.rsplit(':').next().unwrap_or_default().to_owned();
            service = Some(format!("{kind} {at}"));
        }
    }
    if let Some(mark) = argument(argv, &["-f", "--fwmark-service"]) {
        // Listings show marks as signed numbers.
        let mark = mark.parse::<i64>().map_or(mark.to_owned(), |mark| (mark as i32).to_string());
        let family = if has(argv, &["-6", "--ipv6"]) { " IPv6" } else { "" };
        port = "0".to_owned();
        service = Some(format!("FWM {mark}{family}"));
    }
    let server = argument(argv, &["-r", "--real-server"]).map(|text| {
        let is_ipv6 = text.starts_with('[') || text.matches(':').count() > 1;
        let host = if is_ipv6 {
            text.trim_start_matches('[').split(']').next().unwrap_or(text).to_owned()
        } else {
            text.split(':').next().unwrap_or(text).to_owned()
        };
        let has_port = if is_ipv6 { text.contains("]:") } else { text.contains(':') };
        let keeps_port = !is_change(argv, &["-a", "-e", "--add-server", "--edit-server"])
            || has(argv, &["-m", "--masquerading"])
            || service.as_deref().is_some_and(|service| service.starts_with("FWM"));
        let port = match text.rsplit(':').next() {
            Some(own) if has_port && keeps_port => own,
            _ => &port,
        };
        if is_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    });
    Subject { service, server }
}

fn is_change(argv: &[String], options: &[&str]) -> bool {
    argv.first().is_some_and(|word| options.contains(&word.as_str()))
}

/// Does the line ask for what is not built?
fn asks_for_more(argv: &[String]) -> bool {
    let adds_service = is_change(argv, &["-A", "-E", "--add-service", "--edit-service"]);
    adds_service && has(argv, &["--pe"])
}

impl Excused {
    fn touches(&self, argv: &[String]) -> bool {
        let Subject { service, server } = subject(argv);
        let Some(service) = service else { return false };
        self.services.contains(&service)
            || server.is_some_and(|server| self.servers.contains(&(service, server)))
    }

    /// Takes note of a line that the kernel has done.
    fn note(&mut self, argv: &[String], done_here: bool) {
        let Subject { service, server } = subject(argv);
        if is_change(argv, &["-C", "--clear"]) {
            *self = Excused::default();
        }
        let Some(service) = service else { return };
        match server {
            Some(server) if is_change(argv, &["-d", "--delete-server"]) || done_here => {
                self.servers.remove(&(service, server));
            }
            Some(server) if asks_for_more(argv) => {
                self.servers.insert((service, server));
            }
            Some(_) => {}
            None if is_change(argv, &["-D", "--delete-service"]) || done_here && asks_about_service(argv) => {
                if !is_change(argv, &["-E", "--edit-service"]) {
                    self.servers.retain(|(of, _)| *of != service);
                }
                self.services.remove(&service);
            }
            None if asks_for_more(argv) => {
                self.services.insert(service);
            }
            None => {}
        }
    }

    /// A listing without what is excused.
    fn filter(&self, listing: &str) -> Vec<String> {
        let mut service = String::new();
        let mut kept = Vec::new();
        for line in listing.lines() {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let server = match words.first().map(String::as_str) {
                Some("-A" | "-a") => {
                    let subject = subject(&words);
                    service = subject.service.unwrap_or_default();
                    subject.server.map(|server| numeric(&server))
                }
                Some("TCP" | "UDP" | "SCTP") => {
                    service = format!("{} {}", words[0], numeric(&words[1]));
                    None
                }
                Some("FWM") => {
                    let family = if words.get(2).is_some_and(|word| word == "IPv6") { " IPv6" } else { "" };
                    service = format!("FWM {}{family}", words[1]);
                    None
                }
                Some("->") => Some(numeric(&words[1])),
                _ => None,
            };
            let is_excused = self.services.contains(&service)
                || server.is_some_and(|server| self.servers.contains(&(service.clone(), server)));
            if !is_excused {
                kept.push(line.to_owned());
            }
        }
        kept
    }
}

fn asks_about_service(argv: &[String]) -> bool {
    is_change(argv, &["-A", "-E", "-D", "--add-service", "--edit-service", "--delete-service"])
}

#[derive(Default)]
struct Score {
    equal: usize,
    equal_for_what_is_built: usize,
    refused: Vec<String>,
    different: Vec<String>,
}

fn replay(recording: &str, director: &mut dyn Director) -> Score {
    let mut excused = Excused::default();
    let mut score = Score::default();
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

        let line = format!("{} {} {}", vector.n, prog, vector.argv.join(" "));
        let same_errors = code == vector.rc && errors == vector.stderr;
        let lines: Vec<Vec<String>> = match vector.rc {
            0 => stdin.lines().map(words_of).collect(),
            _ => Vec::new(),
        };
        let sort = |mut lines: Vec<String>| {
            if !vector.stable_across_boots {
                lines.sort();
            }
            lines
        };
        let follows_refusal = excused.touches(&vector.argv);
        let is_refused = asks_for_more(&vector.argv) && code == 255 && is_refusal(&errors);
        let holds_refused = lines.iter().any(|line| asks_for_more(line))
            && output.is_empty()
            && errors.lines().all(|line| is_refusal(line) || line == "Service not defined");
        if same_errors && output == vector.stdout {
            score.equal += 1;
        } else if same_errors && sort(excused.filter(&output)) == sort(excused.filter(&vector.stdout)) {
            score.equal_for_what_is_built += 1;
        } else if follows_refusal || is_refused || holds_refused {
            score.refused.push(line);
        } else {
            score.different.push(format!(
                "{line}\n  expected {} {:?} {:?}\n  got      {code} {errors:?} {output:?}",
                vector.rc, vector.stderr, vector.stdout
            ));
        }
        if vector.rc == 0 {
            excused.note(&vector.argv, code == 0);
            for line in &lines {
                excused.note(line, !asks_for_more(line) && !excused.touches(line));
            }
        }
    }
    score
}

fn words_of(line: &str) -> Vec<String> {
    line.split_whitespace().filter(|&word| word != "ipvsadm").map(str::to_owned).collect()
}

fn is_refusal(errors: &str) -> bool {
    errors.trim_end().lines().count() == 1 && errors.trim_end().ends_with("is not built yet")
}

/// `at_least`: vectors that were equal when this was written.
fn check(name: &str, recording: &str, director: &mut dyn Director, at_least: usize) {
    let score = replay(recording, director);
    println!(
        "{name}: {} equal, {} equal for what is built, {} refused, {} different",
        score.equal,
        score.equal_for_what_is_built,
        score.refused.len(),
        score.different.len()
    );
    for line in &score.refused {
        println!("  not built: {line}");
    }
    assert!(score.different.is_empty(), "{name}:\n{}", score.different.join("\n"));
    let equal = score.equal + score.equal_for_what_is_built;
    assert!(equal >= at_least, "{name}: {equal} vectors are equal, {at_least} were");
}

const LINES: (&str, usize) = (include_str!("oracle/cli.json"), 368);
const MORE_LINES: (&str, usize) = (include_str!("oracle/cli_daemon_misc.json"), 75);

#[test]
fn command_lines_do_as_recorded() {
    check("cli.json", LINES.0, &mut InProcess::new(), LINES.1);
}

#[test]
fn daemons_limits_and_edits_do_as_recorded() {
    check("cli_daemon_misc.json", MORE_LINES.0, &mut InProcess::new(), MORE_LINES.1);
}

#[test]
fn all_of_it_does_as_recorded_over_the_api() {
    for (name, (recording, at_least)) in [("cli.json", LINES), ("cli_daemon_misc.json", MORE_LINES)] {
        let daemon = Daemon::start(Vec::new());
        let mut client = Client::new(&daemon.socket()).expect("a client");
        check(name, recording, &mut client, at_least);
    }
}
