//! A backup hears the group, and gives each connection to the worker that will own it. One that begins asks for all.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use lb_core::flow::edit::Edit;
use lb_core::flow::template::of_call;
use lb_core::flow::{Method, Tuple};
use lb_core::ids::ServerId;
use lb_core::ipvs::state::{self, Timeouts};
use lb_core::path::SharedFlow;
use lb_core::tables::{Helper, Protocol, Service, ServiceKey, Settings, Tables};
use lb_core::time::Timeout;
use tokio::sync::watch;
use tracing::info;

use super::link::{LOOK_EVERY, Link, pause_after};
use super::message::{Call, Connections, Message, Record, Sequence, flags};
use super::{ENGINE, SyncCounters, SyncState, Wanted};
use crate::api::types::SyncDaemon;
use crate::plane::Plane;

/// How often all connections are asked for until somebody begins to answer: at first, and when nobody did so often (the
/// kernel's master never does).
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_SELDOM: Duration = Duration::from_secs(30);
const ASKED_OFTEN: u32 = 5;
/// Times that all are asked for again because some were lost.
const REPEATS: u32 = 3;
/// How long workers whose rings are full are waited for, and how often in one message.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSES: u32 = 20;
/// Of a template without one, as in the kernel.
const TEMPLATE_TIMEOUT: Timeout = Timeout::from_secs(180);
/// Longest datagram.
const DATAGRAM: usize = 64 * 1024;

pub(super) async fn live(
    daemon: SyncDaemon,
    wanted: watch::Receiver<Wanted>,
    plane: Arc<dyn Plane>,
    state: Arc<SyncState>,
) {
    loop {
        let link = Link::open(&daemon, &wanted, &state).await;
        let Err(error) = serve(&daemon, link, &wanted, &*plane, &state).await;
        pause_after(&daemon, &state, &error).await;
    }
}

/// Asking for all connections.
struct Joining {
    number: u32,
    /// `None`: somebody answers.
    next: Option<Instant>,
    asked: u32,
    repeats: u32,
    /// Connections that came since the answer began.
    came: u64,
}

async fn serve(
    daemon: &SyncDaemon,
    mut link: Link,
    wanted: &watch::Receiver<Wanted>,
    plane: &dyn Plane,
    state: &SyncState,
) -> io::Result<std::convert::Infallible> {
    let mut buffer = vec![0; DATAGRAM];
    let mut servers = Servers::default();
    let mut joining = Joining::begin();
    loop {
        link.check()?;
        if joining.is_due() {
            link.send(&Call::Ask { number: joining.number }.message(daemon.syncid)).await?;
            state.counters.asked.fetch_add(1, Relaxed);
        }
        let Ok(received) = tokio::time::timeout(ASK_EVERY.min(LOOK_EVERY), link.receive(&mut buffer)).await
        else {
            continue;
        };
        let counters = &state.counters;
        counters.messages_received.fetch_add(1, Relaxed);
        match Message::read(&buffer[..received?]) {
            Ok(Message::Connections(all)) if is_ours(daemon, all.syncid) => {
                servers.follow(wanted.borrow().tables.clone());
                joining.came += take(all, &mut servers, plane, counters).await;
            }
            Ok(Message::Own { syncid, call }) if is_ours(daemon, syncid) => joining.hear(call),
            Ok(_) => drop(counters.other_syncid.fetch_add(1, Relaxed)),
            Err(_) => drop(counters.malformed.fetch_add(1, Relaxed)),
        }
    }
}

/// 0 hears everybody, as with the kernel's.
fn is_ours(daemon: &SyncDaemon, syncid: u8) -> bool {
    daemon.syncid == 0 || daemon.syncid == syncid
}

impl Joining {
    fn begin() -> Joining {
        // Any number will do, as long as another backup's is another one.
        let number = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.subsec_nanos() | 1);
        Joining { number, next: Some(Instant::now()), asked: 0, repeats: 0, came: 0 }
    }

    /// Whether to ask now; then the next time is later.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.next.is_some_and(|next| now >= next);
        if is_due {
            self.asked += 1;
            self.next = Some(now + if self.asked < ASKED_OFTEN { ASK_EVERY } else { ASK_SELDOM });
        }
        is_due
    }

    fn hear(&mut self, call: Call) {
        match call {
            // Also an answer to another backup, or a master that begins, is all that there are.
            Call::Begin { .. } => (self.came, self.next) = (0, Some(Instant::now() + ASK_SELDOM)),
            Call::Done { connections, .. } => {
                info!(connections, came = self.came, "sync: all connections were sent");
                let is_short = self.came < connections && self.repeats < REPEATS;
                self.repeats += u32::from(is_short);
                self.next = is_short.then(|| Instant::now() + ASK_EVERY);
            }
            Call::Ask { .. } => {}
        }
    }
}

/// Gives a message's connections to their owners. Returns how many there were.
pub(super) async fn take(
    all: Connections<'_>,
    servers: &mut Servers,
    plane: &dyn Plane,
    counters: &SyncCounters,
) -> u64 {
    let (mut count, mut pauses) = (0, 0);
    for record in all {
        let Ok(record) = record else {
            counters.malformed.fetch_add(1, Relaxed);
            break;
        };
        count += 1;
        let Some(flow) = flow(&record, &servers.tables.settings) else {
            counters.unknown.fetch_add(1, Relaxed);
            continue;
        };
        let Some(server) = servers.find(&flow) else {
            counters.no_server.fetch_add(1, Relaxed);
            continue;
        };
        let mut is_given = plane.give(flow, server);
        while !is_given && pauses < PAUSES {
            pauses += 1;
            tokio::time::sleep(PAUSE).await;
            is_given = plane.give(flow, server);
        }
        let outcome = if is_given { &counters.connections_given } else { &counters.no_room };
        outcome.fetch_add(1, Relaxed);
    }
    counters.connections_received.fetch_add(count, Relaxed);
    count
}

/// `None`: of a kind that there is not here.
pub(super) fn flow(record: &Record<'_>, settings: &Settings) -> Option<SharedFlow> {
    let is_template = record.is_template();
    let state = u8::try_from(record.state).ok()?;
    let timeouts = Timeouts::new(settings);
    let default = match record.protocol {
        _ if is_template => TEMPLATE_TIMEOUT,
        protocol if state::is_state(protocol, state) => timeouts.of(protocol, state),
        _ => return None,
    };
    let client = (record.client.ip(), record.client.port());
    // What it stands under, and what is behind that.
    let ((src, sport), local) = match call(record)? {
        Some(call) => (call, client),
        None => (client, record.local.map_or(client, |local| (local.ip(), local.port()))),
    };
    let method = record.flags & flags::METHOD;
    let is_past = method == flags::BYPASS && !is_template;
    let virtual_ = (record.virtual_.ip(), record.virtual_.port());
    Some(SharedFlow {
        original: Tuple { src, dst: virtual_.0, sport, dport: virtual_.1, protocol: record.protocol },
        is_template,
        server: if is_past { virtual_ } else { (record.server.ip(), record.server.port()) },
        is_past,
        local,
        mark: record.fwmark,
        method: match method {
            flags::DIRECT | flags::BYPASS => Method::Direct,
            flags::TUNNEL => Method::Tunnel,
            _ if record.server.is_ipv6() != record.client.is_ipv6() => Method::Translated,
            _ => Method::Masq,
        },
        state,
        is_active: record.flags & flags::INACTIVE == 0,
        timeout: if record.timeout == 0 { default } else { Timeout::from_secs(record.timeout) },
        is_hearsay: record.flags & flags::HEARSAY != 0,
        edit: edit(record)?,
    })
}

/// What a call's template stands under; within, `None`: it is none. The kernel tells its Call-ID, we what we keep of that.
fn call(record: &Record<'_>) -> Option<Option<(IpAddr, u16)>> {
    let is_of_engine = !record.engine_name.is_empty() || !record.engine_data.is_empty();
    if is_of_engine && (record.engine_name != ENGINE || !record.is_template()) {
        return None;
    }
    match (record.call, record.engine_data) {
        (Some(call), _) => (is_of_engine && call.port() != 0).then_some(Some((call.ip(), call.port()))),
        (None, []) if is_of_engine => None,
        (None, []) => Some(None),
        (None, call_id) => Some(Some(of_call(record.client.ip(), call_id))),
    }
}

/// How the streams are edited; within, `None`: they are not. The kernel tells sequence numbers alone, and only its helper for FTP changes any. Of a
/// side that the flags do not name they may be anything.
fn edit(record: &Record<'_>) -> Option<Option<Edit>> {
    let of_kernel = || {
        let [from_client, from_server] = record.sequences?;
        let told = |flag, side| if record.flags & flag == 0 { Sequence::default() } else { side };
        let sides = [
            told(flags::SEQUENCES_FROM_CLIENT, from_client),
            told(flags::SEQUENCES_FROM_SERVER, from_server),
        ];
        let is_moved = sides.iter().any(Sequence::moves);
        is_moved.then(|| sides.map(|Sequence { from, delta, delta_before }| [from, delta, delta_before]))
    };
    match (record.edit, of_kernel()) {
        (None, None) => Some(None),
        _ if record.is_template() || record.protocol != Protocol::TCP => None,
        (Some(edit), _) => Some(Some(edit)),
        (None, Some(sequences)) => Edit::of_kernels_ftp(sequences).map(Some),
    }
}

/// Real servers of one service, by address and port, and by address alone (port 0).
type OfService = HashMap<(IpAddr, u16), ServerId>;

/// Finds the ids of real servers: each service's are put in order once it is asked for.
#[derive(Default)]
pub(super) struct Servers {
    tables: Arc<Tables>,
    known: HashMap<ServiceKey, (Arc<Service>, OfService)>,
}

impl Servers {
    /// Uses these tables from here on.
    pub(super) fn follow(&mut self, tables: Arc<Tables>) {
        if !Arc::ptr_eq(&self.tables.services, &tables.services) {
            self.known.retain(|key, (known, _)| {
                tables.services.find(key).is_some_and(|service| Arc::ptr_eq(service, known))
            });
        }
        self.tables = tables;
    }

    /// Where the teller knows no mark, or one that is not here, our own `[[mark]]` rules say which service it is.
    pub(super) fn find(&mut self, flow: &SharedFlow) -> Option<ServerId> {
        if flow.is_past {
            return Some(ServerId::BYPASS);
        }
        let original = &flow.original;
        let services = &self.tables.services;
        let by_mark =
            (flow.mark != 0).then(|| services.find(&ServiceKey::of_mark(flow.mark, original.dst.is_ipv6())));
        let of_ftp = || {
            services
                .find(&ServiceKey::of(original).of_ftp())
                .filter(|service| service.options.helper == Some(Helper::Ftp))
        };
        let service = if flow.is_template {
            services.templated(&ServiceKey::of(original)).next()
        } else {
            let by_rules = || self.tables.service_for(original, crate::sets::now());
            by_mark.flatten().or_else(by_rules)
        };
        // One of FTP's data connections is its control connection's service's, from whatever port of the real server.
        let (service, is_data) = match service {
            Some(service) => (service, service.key.is_ftp() && original.dport != service.key.port),
            None => (of_ftp().filter(|_| !flow.is_template)?, true),
        };
        let (address, port) = flow.server;
        // A service of every port, or by mark, has real servers of every port.
        let find = |servers: &OfService| {
            let of_any_port = || servers.get(&(address, 0)).filter(|_| is_data || service.key.port == 0);
            servers.get(&(address, port)).or_else(of_any_port).copied()
        };
        if let Some((_, servers)) = self.known.get(&service.key) {
            return find(servers);
        }
        let mut servers = OfService::new();
        for server in &service.servers {
            servers.insert((server.address, server.port), server.id);
            servers.entry((server.address, 0)).or_insert(server.id);
        }
        let found = find(&servers);
        self.known.insert(service.key, (service.clone(), servers));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_asked_for_again_when_some_were_lost_and_no_more_than_three_times() {
        let mut joining = Joining::begin();
        assert!(joining.is_due(), "at once");
        assert!(!joining.is_due());
        for repeat in 0..=REPEATS {
            joining.hear(Call::Begin { number: 1 });
            joining.came += 9;
            joining.hear(Call::Done { number: 1, connections: 10 });
            assert_eq!(joining.next.is_some(), repeat < REPEATS);
        }
    }

    #[test]
    fn who_heard_all_asks_no_more() {
        let mut joining = Joining::begin();
        joining.came = 5;
        joining.hear(Call::Begin { number: 1 });
        joining.came += 10;
        joining.hear(Call::Done { number: 1, connections: 10 });
        assert_eq!((joining.next, joining.came), (None, 10), "not those of before");
    }
}
