//! What the references of all workers share: counts by real server, who is overloaded, and every list of servers there was.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::HashMap;
use lb_core::counters::WorkerCounters;
use lb_core::flow::template::TemplateId;
use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::tables::{Server, Service, ServiceKey, Services, Tables};

use super::limits::{Bucket, Counted};
use super::persistent::{Serial, Use};
use super::schedule;

/// The references of one data plane's workers.
pub struct Team {
    /// What the workers' own counters must say.
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    shared: Mutex<Shared>,
}

#[derive(Default)]
pub(super) struct Shared {
    overloaded: HashMap<usize, (Arc<AtomicBool>, bool)>,
    histories: HashMap<ServiceId, Vec<Edition>>,
    /// Templates, and control connections that told of something: those that are there, and how many there ever were.
    uses: HashMap<Serial, Use>,
    /// Connections that services' limits count, and what is left of their rates.
    pub(super) limited: HashMap<Counted, u32>,
    pub(super) buckets: HashMap<Counted, Bucket>,
    templates: Serial,
    names: Vec<(TemplateId, Serial)>,
    /// Which control connection the path meant by a name when it last said it.
    controls: HashMap<TemplateId, Serial>,
    /// Tables told so far, and the generation of the last.
    told: usize,
    last_generation: Option<u32>,
}

/// A service at one version.
#[derive(Clone, Debug)]
pub(super) struct Edition {
    key: ServiceKey,
    pub(super) version: u32,
    pub(super) scheduler: SchedulerKind,
    /// With their weights, in the order of the list.
    pub(super) servers: Vec<(ServerId, u32)>,
    pub(super) comes: Comes,
    /// How many tables had been told when the service was last in them.
    last_told: usize,
}

/// How an edition follows on the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comes {
    /// The service is new.
    New,
    /// Its scheduler was exchanged.
    Rescheduled,
    Changed,
}

impl Team {
    /// For as many workers and real servers as `counters` have.
    pub fn new(counters: &[Arc<WorkerCounters>]) -> Team {
        let same_shape =
            |worker: &Arc<WorkerCounters>| Arc::new(WorkerCounters::new(worker.service_capacity(), 0));
        Team { counters: counters.iter().map(same_shape).collect(), shared: Mutex::default() }
    }

    /// Tells of tables that were compiled, be they published or not. What a scheduler picks depends on each list of servers there was, so that
    /// all must be told in their order (or their services, by [`Team::tell_service`]), and at the latest when a worker adopts them.
    pub fn tell(&self, tables: &Tables) {
        let mut shared = self.shared();
        let is_old = |last: u32| last.wrapping_sub(tables.generation) <= u32::MAX / 2;
        if shared.last_generation.is_some_and(is_old) {
            return;
        }
        shared.last_generation = Some(tables.generation);
        shared.told += 1;
        shared.overloaded.retain(|_, (flag, _)| Arc::strong_count(flag) > 1);
        let told = shared.told;
        for service in tables.services.iter() {
            shared.learn(service, told - 1);
        }
    }

    /// Tells of a service that was changed, for changes that no tables are compiled for.
    pub fn tell_service(&self, service: &Service) {
        let mut shared = self.shared();
        let told = shared.told;
        shared.learn(service, told);
    }

    /// All workers use these services by now: the control plane lets connections in again where too few are left.
    pub fn relieve(&self, services: &Services) {
        for server in services.iter().flat_map(|service| &service.servers) {
            if self.shared().is_overloaded(server) {
                schedule::after_unbind(self, server);
            }
        }
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no reference panicked")
    }

    /// Active and inactive connections of a real server, over all workers.
    pub(super) fn connections(&self, server: ServerId) -> (u64, u64) {
        self.counters.iter().map(|worker| worker.server(server)).fold((0, 0), |(active, inactive), cell| {
            (active + cell.active.get(), inactive + cell.inactive.get())
        })
    }
}

impl Shared {
    pub(super) fn new_template(&mut self) -> Serial {
        self.templates += 1;
        self.uses.insert(self.templates, Use::default());
        self.templates
    }

    /// The path calls a template so from now on.
    pub(super) fn name_template(&mut self, name: TemplateId, serial: Serial) {
        self.names.retain(|(other, _)| *other != name);
        self.names.push((name, serial));
    }

    pub(super) fn template_named(&self, name: TemplateId) -> Option<Serial> {
        self.names.iter().find(|(other, _)| *other == name).map(|&(_, serial)| serial)
    }

    pub(super) fn template_use(&self, serial: Serial) -> Use {
        self.uses.get(&serial).copied().unwrap_or_default()
    }

    /// False: it is not there any more.
    pub(super) fn take_template(&mut self, serial: Serial) -> bool {
        self.uses.get_mut(&serial).map(|template| template.connections += 1).is_some()
    }

    pub(super) fn give_template_back(&mut self, serial: Serial) {
        self.uses.get_mut(&serial).expect("it has a connection").connections -= 1;
    }

    pub(super) fn assure_template(&mut self, serial: Serial) {
        self.uses.get_mut(&serial).expect("it has a connection").is_assured = true;
    }

    pub(super) fn end_template(&mut self, serial: Serial) -> Use {
        self.names.retain(|(_, other)| *other != serial);
        self.uses.remove(&serial).expect("it is there")
    }

    /// The path says this name when it means the control connection.
    pub(super) fn name_control(&mut self, name: TemplateId, serial: Serial) {
        self.controls.insert(name, serial);
    }

    pub(super) fn control_named(&self, name: TemplateId) -> Option<Serial> {
        self.controls.get(&name).copied()
    }

    /// The control connection may have ended since.
    pub(super) fn give_control_back(&mut self, serial: Serial) {
        if let Some(control) = self.uses.get_mut(&serial) {
            control.connections -= 1;
        }
    }

    pub(super) fn end_control(&mut self, serial: Serial) {
        self.uses.remove(&serial).expect("it is there");
    }

    /// A service as it is now; it is not the one that there was before if that was last in tables before `since`.
    fn learn(&mut self, service: &Service, since: usize) {
        self.learn_flags(&service.servers);
        let told = self.told;
        let history = self.histories.entry(service.id).or_default();
        let last = history.last_mut().filter(|last| last.last_told >= since && last.key == service.key);
        let comes = match last {
            Some(last) if last.version == service.version => {
                last.last_told = told;
                return;
            }
            Some(last) if last.scheduler == service.scheduler => Comes::Changed,
            Some(_) => Comes::Rescheduled,
            None => Comes::New,
        };
        history.push(Edition {
            key: service.key,
            version: service.version,
            scheduler: service.scheduler,
            servers: service.servers.iter().map(|server| (server.id, server.weight)).collect(),
            comes,
            last_told: told,
        });
    }

    /// A flag that nobody has seen is as the control plane made it.
    fn learn_flags(&mut self, servers: &[Server]) {
        for server in servers {
            let flag = &server.overloaded;
            let now = flag.load(Relaxed);
            self.overloaded.entry(Arc::as_ptr(flag) as usize).or_insert_with(|| (flag.clone(), now));
        }
    }

    pub(super) fn is_overloaded(&self, server: &Server) -> bool {
        self.overloaded[&(Arc::as_ptr(&server.overloaded) as usize)].1
    }

    pub(super) fn set_overloaded(&mut self, server: &Server, is: bool) {
        let flag = &server.overloaded;
        self.overloaded.insert(Arc::as_ptr(flag) as usize, (flag.clone(), is));
    }

    /// The editions of a service up to this version.
    pub(super) fn history(&self, service: ServiceId, version: u32) -> &[Edition] {
        let all = self.histories.get(&service).map_or(&[][..], Vec::as_slice);
        let last = all.iter().rposition(|edition| edition.version == version);
        &all[..last.map_or(0, |last| last + 1)]
    }
}
