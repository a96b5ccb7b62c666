//! A director without packets: what `ipvsadm` and the API ask for, done by a model alone.

use std::io;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;

use lb_control::api::connections::ConnectionFilter;
use lb_control::api::types::{
    Batch, BatchReply, Connection, ErrorBody, ErrorKind, Failure, ServiceAddress, ServiceView, SyncDaemon,
    Timeouts, Transport,
};
use lb_control::cli::director::{Director, DirectorError};
use lb_control::cli::ipvsadm::{self, Lookup, Surroundings};
use lb_control::model::{self, Limits, Model};

/// Few, so that full tables are met.
const LIMITS: Limits = Limits { services: 20, servers: 40 };

pub(crate) fn model() -> Model {
    Model::new(LIMITS)
}

/// All that an operator can see of a model, in its order.
pub(crate) fn listing(model: &Model) -> (Vec<ServiceView>, Timeouts) {
    (model.services().map(|service| model::service_view(service)).collect(), model.timeouts())
}

pub(crate) struct InProcess(pub(crate) Model);

impl Director for InProcess {
    fn run(&mut self, batch: Batch) -> Result<BatchReply, DirectorError> {
        let mut reply = BatchReply::default();
        self.0.apply_each(&batch.commands, |index, error| {
            reply.failed.push(Failure { index, error });
            ControlFlow::Continue(())
        });
        reply.done = batch.commands.len() - reply.failed.len();
        Ok(reply)
    }

    fn services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        let Some(address) = only else { return Ok(listing(&self.0).0) };
        let service = self.0.find(&address).ok_or_else(|| {
            DirectorError::Refused(ErrorBody::new(ErrorKind::NoSuchService, "no such service"))
        })?;
        Ok(vec![model::service_view(service)])
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

/// What a command line did.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Done {
    pub(crate) code: u8,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Does a command line on `director`, with `input` on its standard input.
pub(crate) fn ipvsadm(words: &[String], input: &str, director: &mut InProcess) -> Done {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut around =
        Surroundings { names: &FewNames, input: &mut input, output: &mut output, errors: &mut errors };
    let code = ipvsadm::run(words, director, &mut around);
    let text = |bytes| String::from_utf8(bytes).expect("ipvsadm writes text");
    Done { code, output: text(output), errors: text(errors) }
}

/// The services that these models hold can be saved, and restored to the same, with and without names of ports.
pub(crate) fn check_round_trip(director: &mut InProcess) {
    let mut services = listing(&director.0).0;
    let is_negative = |service: &ServiceView| matches!(service.spec.service, ServiceAddress::FwMark { mark, .. } if i32::try_from(mark).is_err());
    if services.iter().any(is_negative) {
        // The kernel's tool prints such a mark as a number that it does not take.
        let saved = ipvsadm(&["-Sn".to_owned()], "", director).output;
        let done = ipvsadm(&["-R".to_owned()], &saved, &mut InProcess(model()));
        assert_eq!(done.code, 2, "restoring {saved}");
        assert!(done.errors.starts_with("invalid fwmark value `-"), "{}", done.errors);
        return;
    }
    let mut all = Vec::new();
    ipvsadm::save_all(&mut all, services.clone()).expect("a vector takes everything");
    let all = String::from_utf8(all).expect("ipvsadm writes text");
    sort(&mut services);
    assert_eq!(services, restored(&all), "restored from {all}");

    for option in ["-Sn", "-S"] {
        let saved = ipvsadm(&[option.to_owned()], "", director);
        assert_eq!((saved.code, saved.errors.as_str()), (0, ""), "{option}");
        // As the kernel's, it forgets thresholds.
        let mut expected = services.clone();
        for server in expected.iter_mut().flat_map(|service| &mut service.servers) {
            (server.spec.upper_threshold, server.spec.lower_threshold) = (0, 0);
        }
        assert_eq!(expected, restored(&saved.output), "restored from {}", saved.output);
    }
}

fn restored(lines: &str) -> Vec<ServiceView> {
    let mut director = InProcess(model());
    let done = ipvsadm(&["-R".to_owned()], lines, &mut director);
    assert_eq!(done, Done { code: 0, output: String::new(), errors: String::new() }, "restoring {lines}");
    let mut services = listing(&director.0).0;
    sort(&mut services);
    services
}

/// Whichever real server was added first.
pub(crate) fn sort(services: &mut [ServiceView]) {
    services.iter_mut().for_each(|service| service.servers.sort_by_key(|server| server.spec.server));
}

/// The same everywhere, unlike the system's.
struct FewNames;

impl Lookup for FewNames {
    fn address(&self, host: &str) -> Option<Ipv4Addr> {
        (host == "localhost").then_some(Ipv4Addr::LOCALHOST)
    }

    fn host(&self, address: Ipv4Addr) -> Option<String> {
        (address == Ipv4Addr::LOCALHOST).then(|| "localhost".to_owned())
    }

    fn port(&self, service: &str, _: Transport) -> Option<u16> {
        match service {
            "http" => Some(80),
            "domain" => Some(53),
            _ => None,
        }
    }

    fn service(&self, port: u16, _: Transport) -> Option<String> {
        match port {
            80 => Some("http".to_owned()),
            53 => Some("domain".to_owned()),
            _ => None,
        }
    }
}
