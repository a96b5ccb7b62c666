//! What the API shows of the daemon's state.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lb_core::counters::WorkerCounters;
use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::ipvs::limiter::Limit;
use lb_core::packet::Packet;
use lb_core::path::{self, Assumed, FlowEvents};
use lb_core::rule::capture::Captures;
use lb_core::rule::fingerprint::Fingerprint;
use lb_core::tables::{Interfaces, Server, Service, SynCookies};
use lb_core::time::Timeout;
use lb_core::trace::Trace;

use super::Control;
use super::alarms::Counted;
use super::sets::SetsFile;
use super::spread::Steering;
use crate::api::conntrack::ConntrackStatistics;
use crate::api::explain::{Explanation, Probe, Road, TraceQuery};
use crate::api::types::{
    CookieView, DropView, ErrorBody, ErrorKind, FingerprintView, LimitedView, PortView, QuicKey, ServerView,
    ServiceAddress, ServiceView, Status, WorkerView,
};
use crate::config::{Idle, Nflog};
use crate::explain;
use crate::model::{self, Change};
use crate::packet_log;
use crate::sets;
use crate::stats::{Baselines, connections, templates};

/// The version, as every part of the program says it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Roads of a trace that are read at once.
const ROADS: usize = 64;

impl Control {
    /// Services with their real servers and statistics; only `which`, when that is given. Keys are hidden.
    ///
    /// # Errors
    /// `NoSuchService`.
    pub fn services(&self, which: Option<&ServiceAddress>) -> Result<Vec<ServiceView>, ErrorBody> {
        let mut services = self.whole_services(which)?;
        let configs = services.iter_mut().flat_map(|service| &mut service.spec.quic_lb);
        configs.filter_map(|config| config.key.as_mut()).for_each(|key| *key = QuicKey::hidden());
        Ok(services)
    }

    /// The same with keys, for who asks for them.
    ///
    /// # Errors
    /// As there.
    pub fn whole_services(&self, which: Option<&ServiceAddress>) -> Result<Vec<ServiceView>, ErrorBody> {
        match which {
            None => Ok(self.model.services().map(|service| self.service_view(service, usize::MAX)).collect()),
            Some(address) => match self.model.find(address) {
                Some(service) => Ok(vec![self.service_view(service, usize::MAX)]),
                None => {
                    let message = format!("virtual service {address}: no such service");
                    Err(ErrorBody::new(ErrorKind::NoSuchService, message))
                }
            },
        }
    }

    /// The first services, and of each the first real servers; with keys.
    pub(crate) fn first_services(&self, services: usize, servers: usize) -> Vec<ServiceView> {
        self.model.services().take(services).map(|service| self.service_view(service, servers)).collect()
    }

    /// With so many of its real servers at most.
    fn service_view(&self, service: &Service, most: usize) -> ServiceView {
        let (counts, rates) = self.statistics.service(service.id, self.plane.counters());
        ServiceView {
            spec: model::service_spec(service),
            counts,
            rates,
            cookies: self.cookie_view(service),
            limited: self.limited_view(service),
            servers: service
                .servers
                .iter()
                .take(most)
                .map(|server| self.server_view(service, server))
                .collect(),
        }
    }

    fn server_view(&self, service: &Service, server: &Server) -> ServerView {
        let workers = self.plane.counters();
        let (counts, rates) = self.statistics.server(server.id, workers);
        let (active, inactive) = connections(workers, server.id);
        ServerView {
            spec: model::server_spec(service, server),
            active,
            inactive,
            persistent: templates(workers, server.id),
            overloaded: server.overloaded.load(std::sync::atomic::Ordering::Relaxed),
            counts,
            rates,
        }
    }

    pub fn status(&self) -> Status {
        let problems = self.problems();
        let flows = |count: fn(&WorkerCounters) -> u64| self.plane.counters().iter().map(|w| count(w)).sum();
        Status {
            version: VERSION.to_owned(),
            pid: process::id(),
            uptime: self.ready_since.elapsed().as_secs(),
            ready: problems.is_empty(),
            problems,
            alarms: self.alarms.lines(Instant::now()),
            config: self.config_path.display().to_string(),
            generation: self.compiler.current().generation,
            services: self.model.services().len(),
            servers: self.model.services().map(|service| service.servers.len()).sum(),
            connections: flows(|worker| worker.flows.entries.get()),
            max_connections: flows(|worker| worker.flows.capacity.get()),
            syn_cookies: self
                .model
                .services()
                .filter(|service| self.cookie_view(service).is_some_and(|cookies| cookies.on))
                .map(|service| model::address(&service.key))
                .collect(),
            by_hash: self
                .model
                .services()
                .filter(|service| self.is_by_hash(service))
                .map(|service| model::address(&service.key))
                .collect(),
        }
    }

    fn cookie_view(&self, service: &Service) -> Option<CookieView> {
        cookie_view(service, self.statistics.baselines(), self.plane.counters())
    }

    /// What became of the connections of a service that is limited.
    fn limited_view(&self, service: &Service) -> Option<LimitedView> {
        let limiter = service.limiter.as_ref()?;
        let refused = self.statistics.baselines().limited(service.id, self.plane.counters());
        let of = |limit: Limit| refused[limit as usize];
        Some(LimitedView {
            connections: limiter.connections(),
            conn_limit: of(Limit::Connections),
            conn_rate: of(Limit::Rate),
            source_conn_limit: of(Limit::SourceConnections),
            source_conn_rate: of(Limit::SourceRate),
        })
    }

    /// Whether packets of a service went by hash alone a moment ago, at one worker at least.
    fn is_by_hash(&self, service: &Service) -> bool {
        const MOMENT: Timeout = Timeout::from_secs(10);
        let now = crate::sets::now();
        self.plane.counters().iter().any(|worker| worker.service(service.id).was_hashed(MOMENT, now))
    }

    /// In the order in which they were loaded.
    pub fn fingerprint_views(&self) -> Vec<FingerprintView> {
        let view = |one: &Fingerprint| FingerprintView {
            window: one.window().to_string(),
            ttl: one.ttl(),
            df: one.has_df(),
            size: one.size(),
            options: one.options().to_owned(),
            genre: one.genre().to_owned(),
            version: one.version().to_owned(),
            subtype: one.subtype().to_owned(),
        };
        self.model.fingerprints().iter().map(view).collect()
    }

    pub fn port_views(&self) -> Vec<PortView> {
        let states = self.plane.ports();
        let ports = self.config.ports.iter().zip(states).enumerate();
        let view = |(index, (port, state)): (usize, (&crate::config::Port, crate::plane::PortState))| {
            let sum = |count: fn(&lb_core::counters::PortCell) -> u64| -> u64 {
                self.plane.counters().iter().map(|worker| count(worker.port(PortId(index as u16)))).sum()
            };
            let (received, handed_over) =
                (sum(|cell| cell.rx_packets.get()), sum(|cell| cell.handed_over.get()));
            let steering = Steering {
                workers: self.plane.counters().len(),
                queues: state.queues.into(),
                spread: state.spread,
                handed_over: (handed_over * 100).checked_div(received).unwrap_or(0),
                naps: self.config.dataplane.idle == Idle::Interrupt
                    && !state.offloads.contains(&"rx interrupt"),
            };
            let [rx_burst, tx_burst] = state.bursts;
            PortView {
                rx_burst,
                tx_burst,
                queues: state.queues,
                handed_over,
                steering: steering.in_words(),
                offloads: state.offloads.iter().map(|&offload| offload.to_owned()).collect(),
                name: port.name.clone(),
                device: port.device.clone(),
                mac: state.mac.map(|byte| format!("{byte:02x}")).join(":"),
                mtu: port.mtu.into(),
                link_up: state.link_up,
                rx_packets: received,
                rx_bytes: sum(|cell| cell.rx_bytes.get()),
                tx_packets: sum(|cell| cell.tx_packets.get()),
                tx_bytes: sum(|cell| cell.tx_bytes.get()),
                rx_missed: state.rx_missed + state.rx_errors,
                tx_errors: state.tx_errors,
                twin_refused: state.twin_refused,
                twin_waits: state.twin_waits,
                to_twin: sum(|cell| cell.to_twin.get()),
                from_twin: sum(|cell| cell.from_twin.get()),
            }
        };
        ports.map(view).collect()
    }

    pub fn worker_views(&self) -> Vec<WorkerView> {
        let view = |(index, worker): (usize, &Arc<WorkerCounters>)| WorkerView {
            worker: index as u16,
            cpu: self.config.dataplane.workers.get(index).copied().unwrap_or_default(),
            alive: !self.watch.is_stalled(index),
            busy_cycles: worker.turns.busy_cycles.get(),
            idle_cycles: worker.turns.idle_cycles.get(),
            turns: worker.turns.turns.get(),
            long_turns: worker.turns.long_turns(),
            generation: worker.turns.generation.get() as u32,
            flows: worker.flows.entries.get(),
            flow_capacity: worker.flows.capacity.get(),
            handed_over: worker.turns.handed_over.get(),
            handed_in: worker.turns.handed_in.get(),
        };
        self.plane.counters().iter().enumerate().map(view).collect()
    }

    /// At most so many lines that rules want written, each with its level; how many there was no room for since the start, and how many packets
    /// were not traced.
    pub fn packet_log(&self, most: usize) -> (Vec<(u8, String)>, u64, u64) {
        let events = &self.rules.compiled().events;
        let interfaces = &self.compiler.current().interfaces;
        let lines = std::iter::from_fn(|| events.take()).take(most);
        let lines =
            lines.map(|event| (event.level, packet_log::line(&event, interfaces, &self.rules))).collect();
        (lines, events.lost.get(), events.untraced.get())
    }

    /// Where packets wait that NFLOG rules want kept, and what their files go by; `None`: there was no such rule.
    pub(crate) fn captures(&self) -> Option<(Arc<Captures>, Arc<Interfaces>, Nflog)> {
        let captures = self.rules.captures()?.clone();
        Some((captures, self.compiler.current().interfaces.clone(), self.config.nflog.clone()))
    }

    /// How often something failed that is counted here.
    pub(super) fn counted(&self) -> Counted {
        let captures = self.rules.captures();
        Counted {
            events: self.flow_events().lost.get(),
            lines: self.rules.compiled().events.lost.get(),
            packets: captures.map_or(0, |captures| captures.lost.get()),
            unwritten_packets: captures.map_or(0, |captures| captures.unwritten.get()),
            set_changes: self.set_wishes().lost.load(Relaxed),
            unsaved_models: self.keep_counters().map_or(0, |counters| counters.failed.load(Relaxed)),
            unsaved_sets: self.sets_file.as_ref().map_or(0, SetsFile::failed),
        }
    }

    /// What would become of a packet, and what a connection is known by that such a packet is of.
    ///
    /// # Errors
    /// `BadRequest`: there is no such packet.
    pub fn explain(&self, probe: &Probe) -> Result<(Explanation, Option<Tuple>), ErrorBody> {
        let tables = self.compiler.current();
        let (frame, assumed) = explain::frame(probe, tables)?;
        // One that is said to be of a connection is not compared with those that there are.
        let tuple = path::tuple_of_frame(frame.data()).filter(|_| assumed == Assumed::First);
        let now = sets::now();
        let observed = path::explain(tables, self.plane.counters(), frame, probe.from_host, assumed, now);
        let cannot_begin = observed.is_err();
        let observed = observed.unwrap_or_else(|first| *first);
        let road = explain::road(&observed, tables, &self.rules, probe.all);
        Ok((Explanation { road, cannot_begin, existing: None }, tuple))
    }

    /// Has the workers watch packets from here on.
    ///
    /// # Errors
    /// `BadRequest`: there are no such packets; `Unavailable`: others are watched.
    pub fn begin_trace(&mut self, asked: &TraceQuery) -> Result<Arc<Trace>, ErrorBody> {
        if self.compiler.trace().is_some() {
            let message = "there is a trace under way, one at a time";
            return Err(ErrorBody::new(ErrorKind::Unavailable, message));
        }
        let trace = Arc::new(explain::trace(asked, self.compiler.current())?);
        self.set_trace(Some(trace.clone()));
        Ok(trace)
    }

    pub fn end_trace(&mut self, trace: &Arc<Trace>) {
        if self.compiler.trace().is_some_and(|current| Arc::ptr_eq(current, trace)) {
            self.set_trace(None);
        }
    }

    fn set_trace(&mut self, trace: Option<Arc<Trace>>) {
        self.compiler.set_trace(trace);
        self.settle(&Change { publish: true, ..Change::default() });
    }

    /// The roads that were watched since it was asked last.
    pub fn traced(&self, trace: &Trace) -> Vec<Road> {
        let tables = self.compiler.current();
        let roads = std::iter::from_fn(|| trace.take()).take(ROADS);
        roads.map(|road| explain::road(&road, tables, &self.rules, false)).collect()
    }

    /// Where workers tell of connections.
    pub(crate) fn flow_events(&self) -> Arc<FlowEvents> {
        self.compiler.current().events.clone()
    }

    /// What `conntrack -S` shows.
    pub fn conntrack_statistics(&self) -> Vec<ConntrackStatistics> {
        let view = |(index, worker): (usize, &Arc<WorkerCounters>)| {
            let flows = &worker.flows;
            let insert_failed = flows.index_full.get();
            ConntrackStatistics {
                worker: index as u16,
                cpu: self.config.dataplane.workers.get(index).copied().unwrap_or_default(),
                found: flows.found.get(),
                invalid: flows.invalid.get(),
                early_drop: flows.early_drop.get(),
                expect_new: flows.expect_new.get(),
                expect_create: flows.expect_create.get(),
                expect_delete: flows.expect_delete.get(),
                insert: flows.inserted.get() + flows.carried_over.get() + flows.taken_over.get(),
                insert_failed,
                drop: flows.full.get() + insert_failed,
            }
        };
        self.plane.counters().iter().enumerate().map(view).collect()
    }

    /// Packets that were not sent, by reason and hook; only those that there were.
    pub fn drop_views(&self) -> Vec<DropView> {
        let mut views = Vec::new();
        for &reason in DropReason::ALL {
            for hook in Hook::ALL {
                let packets =
                    self.plane.counters().iter().map(|worker| worker.dropped(reason, hook).get()).sum();
                if packets > 0 {
                    views.push(DropView { reason: reason.label().into(), hook: hook.name().into(), packets });
                }
            }
        }
        views
    }
}

/// What became of the SYN cookies of a service that may answer with them.
pub(crate) fn cookie_view(
    service: &Service,
    baselines: &Baselines,
    workers: &[Arc<WorkerCounters>],
) -> Option<CookieView> {
    let on = match service.options.syn_cookies {
        SynCookies::Off => return None,
        SynCookies::On => true,
        SynCookies::Auto(_) => {
            let now = crate::sets::now();
            workers.iter().any(|worker| worker.service(service.id).is_flooded(now))
        }
    };
    let [sent, accepted, rejected, _] = baselines.flood(service.id, workers);
    Some(CookieView { on, sent, accepted, rejected })
}
