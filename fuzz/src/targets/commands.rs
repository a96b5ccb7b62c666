//! Any commands leave a model that obeys its own rules: a command is done wholly or not at all, so is a batch with
//! rollback, ids are given once, and what is listed makes the same model again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use lb_control::api::types::{
    Batch, Command, ErrorBody, ForwardMethod, OnError, Persistence, ServerSpec, ServiceAddress, ServiceSpec,
    Timeouts, Transport, Tunnel,
};
use lb_control::compile::Compiler;
use lb_control::model::{Change, Model};
use lb_core::tables::{Prefix, Service, Settings};

use crate::director::{listing, model};

/// One of few services, so that commands meet.
#[derive(Arbitrary, Debug)]
enum Subject {
    Tcp { n: u8, port: u16 },
    Udp { n: u8 },
    Ipv6 { n: u8 },
    Sctp { n: u8 },
    Mark { mark: u32, is_ipv6: bool },
    Other { address: IpAddr, port: u16 },
    Prefix { address: IpAddr, len: u8, port: u16 },
}

#[derive(Arbitrary, Debug)]
struct Spec {
    subject: Subject,
    scheduler: u8,
    flags: Option<u8>,
    persistence: Option<u32>,
    has_engine: bool,
    one_packet: bool,
}

#[derive(Arbitrary, Debug)]
struct Server {
    at: At,
    weight: u32,
    forward: u8,
    upper: u8,
    lower: u8,
    has_tunnel: bool,
}

#[derive(Arbitrary, Debug)]
enum At {
    Ipv4(u8),
    Ipv6(u8),
    Any(IpAddr, u16),
}

#[derive(Arbitrary, Debug)]
enum Step {
    AddService(Spec),
    EditService(Spec),
    DeleteService(Subject),
    AddServer(Subject, Server),
    EditServer(Subject, Server),
    DeleteServer(Subject, At),
    Flush,
    Zero(Option<Subject>),
    SetTimeouts(u32, u32, u32),
}

#[derive(Arbitrary, Debug)]
struct Steps {
    steps: Vec<Step>,
    is_rollback: bool,
    /// Bit n: the removed real server n still has connections.
    connected: u32,
}

impl Subject {
    fn address(&self) -> ServiceAddress {
        let endpoint = ServiceAddress::new;
        let ipv4 = |n: u8| Ipv4Addr::new(192, 0, 2, n % 4).into();
        match *self {
            Subject::Tcp { n, port } => endpoint(Transport::Tcp, ipv4(n), if n < 128 { 80 } else { port }),
            Subject::Udp { n } => endpoint(Transport::Udp, ipv4(n), 53),
            Subject::Ipv6 { n } => {
                endpoint(Transport::Tcp, Ipv6Addr::from(u128::from(n % 4) + (0xfd << 120)).into(), 80)
            }
            Subject::Sctp { n } => endpoint(Transport::Sctp, ipv4(n), 9000),
            Subject::Mark { mark, is_ipv6 } => ServiceAddress::FwMark { mark: mark.max(1), is_ipv6 },
            Subject::Other { address, port } => endpoint(Transport::Tcp, address, port),
            Subject::Prefix { address, len, port } => {
                let len = len % (Prefix::longest(address.is_ipv6()) + 1);
                let address = Prefix { address, len }.network();
                ServiceAddress::Endpoint { transport: Transport::Tcp, address, prefix_len: len, port }
            }
        }
    }
}

impl Spec {
    fn spec(&self) -> ServiceSpec {
        const SCHEDULERS: [&str; 8] = ["rr", "wrr", "lc", "wlc", "sh", "mh", "", "no such"];
        ServiceSpec {
            scheduler_flags: self.flags.iter().map(|flag| format!("flag-{flag}")).collect(),
            persistence: self.persistence.map(|timeout| Persistence { timeout, netmask: None }),
            persistence_engine: self.has_engine.then(|| "sip".to_owned()),
            one_packet: self.one_packet,
            ..ServiceSpec::new(self.subject.address(), SCHEDULERS[usize::from(self.scheduler % 8)])
        }
    }
}

impl At {
    fn address(&self) -> SocketAddr {
        match *self {
            At::Ipv4(n) => (Ipv4Addr::new(10, 0, 0, n % 8), 8080).into(),
            At::Ipv6(n) => (Ipv6Addr::from(u128::from(n % 8) + (0xfd << 120)), 8080).into(),
            At::Any(address, port) => (address, port).into(),
        }
    }
}

impl Server {
    fn spec(&self) -> ServerSpec {
        const METHODS: [ForwardMethod; 4] =
            [ForwardMethod::Masq, ForwardMethod::FullNat, ForwardMethod::Direct, ForwardMethod::Tunnel];
        ServerSpec {
            weight: self.weight,
            forward: METHODS[usize::from(self.forward % 4)],
            upper_threshold: self.upper.into(),
            lower_threshold: self.lower.into(),
            tunnel: self.has_tunnel.then(|| Tunnel { encapsulation: "gue".into(), port: 1, checksum: None }),
            ..ServerSpec::new(self.at.address())
        }
    }
}

impl Step {
    fn command(&self) -> Command {
        match self {
            Step::AddService(spec) => Command::AddService(spec.spec()),
            Step::EditService(spec) => Command::EditService(spec.spec()),
            Step::DeleteService(subject) => Command::DeleteService { service: subject.address() },
            Step::AddServer(subject, server) => {
                Command::AddServer { service: subject.address(), server: server.spec() }
            }
            Step::EditServer(subject, server) => {
                Command::EditServer { service: subject.address(), server: server.spec() }
            }
            Step::DeleteServer(subject, at) => {
                Command::DeleteServer { service: subject.address(), server: at.address() }
            }
            Step::Flush => Command::Flush,
            Step::Zero(subject) => Command::Zero { service: subject.as_ref().map(Subject::address) },
            Step::SetTimeouts(tcp, tcp_fin, udp) => {
                Command::SetTimeouts(Timeouts { tcp: *tcp, tcp_fin: *tcp_fin, udp: *udp })
            }
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut model = model();
    let mut compiler = Compiler::default();
    let mut input = Unstructured::new(data);
    let Ok(batches) = input.arbitrary_iter::<Steps>() else { return };
    for steps in batches {
        let Ok(steps) = steps else { return };
        let on_error = if steps.is_rollback { OnError::Rollback } else { OnError::Continue };
        let batch = Batch { commands: steps.steps.iter().map(Step::command).collect(), on_error };
        check_json(&batch);
        let (one_by_one, failed) = one_by_one(&model, &batch.commands);
        let change = match on_error {
            OnError::Continue => {
                let mut together = Vec::new();
                let change = model.apply_each(&batch.commands, |index, error| {
                    together.push((index, error));
                    ControlFlow::Continue(())
                });
                assert_eq!((listing(&model), together), (listing(&one_by_one), failed), "{batch:?}");
                change
            }
            OnError::Rollback => {
                let before = (listing(&model), model.server_ids_in_use());
                match model.apply_all(&batch.commands) {
                    Ok(change) => {
                        assert_eq!((listing(&model), vec![]), (listing(&one_by_one), failed), "{batch:?}");
                        change
                    }
                    Err(error) => {
                        assert_eq!((listing(&model), model.server_ids_in_use()), before, "{batch:?}");
                        assert_eq!(Some(&error), failed.first(), "{batch:?}");
                        Change::default()
                    }
                }
            }
        };
        model.release(|id| steps.connected >> (id.0 % 32) & 1 == 1);
        check_ids(&model);
        let changes = compiler.changes(&model, change.services);
        let tables = compiler.with_changes(&changes, Settings::default());
        assert_eq!(tables.services.len(), model.services().len());
        let is_there = |service: &Arc<Service>| {
            tables.services.find(&service.key).is_some_and(|found| Arc::ptr_eq(found, service))
        };
        assert!(model.services().all(is_there), "a service of {batch:?} changed and was not named");
        check_listing(&model);
    }
}

/// What each command does alone, in turn, and which fail; one that fails does nothing.
fn one_by_one(model: &Model, commands: &[Command]) -> (Model, Vec<(usize, ErrorBody)>) {
    let (mut model, mut failed) = (model.clone(), Vec::new());
    for (index, command) in commands.iter().enumerate() {
        let before = (listing(&model), model.server_ids_in_use());
        if let Err(error) = model.apply(command) {
            assert!(!error.message.is_empty() && !error.message.contains(char::is_control), "{error:?}");
            assert_eq!((listing(&model), model.server_ids_in_use()), before, "{command:?} failed: {error}");
            failed.push((index, error));
        }
    }
    (model, failed)
}

fn check_json(batch: &Batch) {
    let text = serde_json::to_string(batch).expect("commands are JSON");
    let again: Batch = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(&again, batch);
}

/// No id is given twice, and none is lost.
fn check_ids(model: &Model) {
    let services: BTreeSet<u32> = model.services().map(|service| service.id.0).collect();
    assert_eq!(services.len(), model.services().len(), "an id of a service is given twice");
    let in_use = model.services().flat_map(|service| &service.servers).map(|server| server.id.0);
    let all: Vec<u32> = in_use.chain(model.removed_servers().map(|id| id.0)).collect();
    let apart: BTreeSet<u32> = all.iter().copied().collect();
    assert_eq!((apart.len(), all.len()), (all.len(), model.server_ids_in_use()), "{all:?}");
}

/// The commands that a listing amounts to make the same model.
fn check_listing(model: &Model) {
    let (services, timeouts) = listing(model);
    let mut again = crate::director::model();
    let mut commands = vec![Command::SetTimeouts(timeouts)];
    for service in &services {
        commands.push(Command::AddService(service.spec.clone()));
        // Newest first.
        commands.extend(
            service.servers.iter().rev().map(|server| Command::AddServer {
                service: service.spec.service,
                server: server.spec.clone(),
            }),
        );
    }
    let made = again.apply_all(&commands);
    assert!(made.is_ok(), "{made:?}");
    assert_eq!(listing(&again), (services, timeouts));
}
