//! A master tells the group of this director's connections: at once of those whose state changes, and walk by walk of
//! those that go on; of all when it begins, and when a backup asks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lb_core::flow::edit::Shift;
use lb_core::flow::{Direction, Method};
use lb_core::path::SharedFlow;
use lb_core::tables::Tables;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::info;

use super::link::{Link, pause_after};
use super::message::{Audience, Call, Message, Record, Sequence, Writer, flags};
use super::{ENGINE, SyncState, Wanted};
use crate::api::types::SyncDaemon;
use crate::plane::Plane;

/// How long a change waits for others that leave in the same message.
const TICK: Duration = Duration::from_millis(5);
/// Connections that are told of in one tick, at most and at least.
const MOST: usize = 4096;
const LEAST: usize = 256;
/// All connections are not sent more often, whoever asks.
const BETWEEN_ANSWERS: Duration = Duration::from_secs(2);
/// Datagrams of others that are read in one tick.
const HEARD: usize = 1024;
/// A walk is twice as fast as it must be.
const AHEAD: u64 = 2;

/// What walks through the workers' tables.
struct Walk {
    is_under_way: bool,
    /// Of a whole walk, the asker's number.
    answers: Option<u32>,
    sent: u64,
    next: Instant,
    last_answer: Option<Instant>,
}

pub(super) async fn live(
    daemon: SyncDaemon,
    wanted: watch::Receiver<Wanted>,
    plane: Arc<dyn Plane>,
    state: Arc<SyncState>,
) {
    loop {
        let link = Link::open(&daemon, &wanted, &state).await;
        let Err(error) = serve(&daemon, link, &wanted, &*plane, &state).await;
        state.counters.send_errors.fetch_add(1, Relaxed);
        pause_after(&daemon, &state, &error).await;
    }
}

async fn serve(
    daemon: &SyncDaemon,
    mut link: Link,
    wanted: &watch::Receiver<Wanted>,
    plane: &dyn Plane,
    state: &SyncState,
) -> io::Result<std::convert::Infallible> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writers = [Audience::All, Audience::Own]
        .map(|audience| Writer::new(audience, daemon.syncid, daemon.maxlen.into()));
    // A backup may have been waiting for us.
    let mut asked = Some(0);
    let mut walk =
        Walk { is_under_way: false, answers: None, sent: 0, next: Instant::now(), last_answer: None };
    loop {
        ticks.tick().await;
        link.check()?;
        asked = hear(daemon, &link, state)?.or(asked);
        let (refresh, tables) = {
            let wanted = wanted.borrow();
            (wanted.refresh, wanted.tables.clone())
        };
        if !walk.is_under_way {
            walk.begin(&mut asked, refresh, plane, &link, daemon).await?;
        }
        // Asked before the reading, so that what was told before the end is read.
        let is_over = walk.is_under_way && plane.is_walk_over();
        let messages = read(
            &mut writers,
            pace(walk.answers.is_some(), refresh, plane),
            plane,
            &tables,
            &mut walk.sent,
            &state.counters.connections_sent,
        );
        for message in messages {
            link.send(&message).await?;
            state.counters.messages_sent.fetch_add(1, Relaxed);
        }
        if is_over {
            walk.is_under_way = false;
            if let Some(number) = walk.answers.take() {
                link.send(&Call::Done { number, connections: walk.sent }.message(daemon.syncid)).await?;
                state.counters.answered.fetch_add(1, Relaxed);
                info!(connections = walk.sent, "sync: all connections are sent");
            }
        }
    }
}

/// The number of the last one who asks for all connections. What else is said in the group is not for a master.
fn hear(daemon: &SyncDaemon, link: &Link, state: &SyncState) -> io::Result<Option<u32>> {
    let mut buffer = [0; 64];
    let mut asked = None;
    // Another master's connections are longer than that, and cut off.
    for _ in 0..HEARD {
        let Some(len) = link.try_receive(&mut buffer)? else { break };
        if let Ok(Message::Own { syncid, call: Call::Ask { number } }) = Message::read(&buffer[..len]) {
            // A backup without an id hears everybody.
            if syncid == daemon.syncid || syncid == 0 {
                asked = Some(number);
            } else {
                state.counters.other_syncid.fetch_add(1, Relaxed);
            }
        }
    }
    Ok(asked)
}

impl Walk {
    /// Begins one, if it is time.
    async fn begin(
        &mut self,
        asked: &mut Option<u32>,
        refresh: Duration,
        plane: &dyn Plane,
        link: &Link,
        daemon: &SyncDaemon,
    ) -> io::Result<()> {
        let now = Instant::now();
        let may_answer =
            self.last_answer.is_none_or(|last| now.saturating_duration_since(last) >= BETWEEN_ANSWERS);
        if may_answer && let Some(number) = asked.take() {
            self.answers = Some(number);
            self.last_answer = Some(now);
            link.send(&Call::Begin { number }.message(daemon.syncid)).await?;
        } else if now < self.next {
            return Ok(());
        }
        plane.begin_walk(self.answers.is_some());
        (self.is_under_way, self.sent, self.next) = (true, 0, now + refresh);
        Ok(())
    }
}

/// Connections that are read of each worker in a tick: when nobody waits for all, spread over the time that there is.
pub(super) fn pace(is_waited_for: bool, refresh: Duration, plane: &dyn Plane) -> usize {
    let workers = plane.counters();
    let most = MOST / workers.len().max(1);
    if is_waited_for {
        return most;
    }
    let ticks = (refresh.as_millis() / TICK.as_millis()).max(1) as u64;
    let connections = workers.iter().map(|worker| worker.flows.entries.get()).max().unwrap_or(0);
    ((connections * AHEAD / ticks) as usize).clamp(LEAST.min(most), most)
}

/// What the workers told, as messages.
fn read(
    writers: &mut [Writer; 2],
    most: usize,
    plane: &dyn Plane,
    tables: &Tables,
    sent: &mut u64,
    counter: &AtomicU64,
) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut count = 0;
    plane.read_shared(most, &mut |flow| {
        let Some(record) = record(&flow, tables) else { return };
        let writer = &mut writers[record.audience() as usize];
        if !writer.add(&record) {
            messages.extend(writer.message(<[u8]>::to_vec));
            writer.add(&record);
        }
        count += 1;
    });
    messages.extend(writers.iter_mut().filter_map(|writer| writer.message(<[u8]>::to_vec)));
    *sent += count;
    counter.fetch_add(count, Relaxed);
    messages
}

/// `None`: a connection's template tells enough of it (`sync_persist_mode`).
pub(super) fn record(flow: &SharedFlow, tables: &Tables) -> Option<Record<'static>> {
    let SharedFlow { original, is_template, is_past, local, mark, state, is_active, timeout, edit, .. } =
        *flow;
    let templates_alone = tables.settings.sysctls.sync_persist_mode == 1;
    let is_persistent =
        || tables.service_with(&original, mark).is_some_and(|it| it.options.persistence.is_some());
    if templates_alone && !is_template && !is_past && is_persistent() {
        return None;
    }
    let method = match flow.method {
        _ if is_past => flags::BYPASS,
        Method::Masq | Method::Translated => flags::MASQ,
        Method::Direct => flags::DIRECT,
        Method::Tunnel => flags::TUNNEL,
    };
    let (first, virtual_) = ((original.src, original.sport), (original.dst, original.dport));
    let server = if is_past { nowhere(original.dst) } else { flow.server };
    // In a call's template the client stands where a connection has its local endpoint.
    let is_call = is_template && original.sport != 0;
    let client = if is_call { local } else { first };
    let sequences =
        edit.map(|edit| [Direction::Original, Direction::Reply].map(|way| moved(edit.shift(way))));
    let moves = [flags::SEQUENCES_FROM_CLIENT, flags::SEQUENCES_FROM_SERVER];
    let moves = moves.into_iter().zip(sequences.into_iter().flatten()).filter(|(_, moved)| moved.moves());
    Some(Record {
        flags: method
            | if is_active { 0 } else { flags::INACTIVE }
            | if is_template { flags::TEMPLATE } else { 0 }
            | if flow.is_hearsay { flags::HEARSAY } else { 0 }
            | moves.map(|(flag, _)| flag).sum::<u32>(),
        state: state.into(),
        fwmark: mark,
        timeout: timeout.as_secs().max(1),
        sequences: sequences.filter(|sides| sides.iter().any(Sequence::moves)),
        engine_name: if is_call { ENGINE } else { &[] },
        local: (!is_call && local != first).then(|| local.into()),
        call: is_call.then(|| first.into()),
        edit,
        ..Record::new(original.protocol, client.into(), virtual_.into(), server.into())
    })
}

/// Of a family, in the real server's place.
fn nowhere(of: IpAddr) -> (IpAddr, u16) {
    let address = if of.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    (address, 0)
}

fn moved(shift: &Shift) -> Sequence {
    let [from, delta, delta_before] = shift.sequence();
    Sequence { from, delta, delta_before }
}
