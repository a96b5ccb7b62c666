//! Connections shared with other directors: what this worker tells of its own, and what it takes over of
//! theirs.
//!
//! No packet pays for it: a connection is noted when its state changes, which is off the straight line, and a
//! walk through the table, a few places a turn, finds those that had packets since the walk before by the
//! time that each packet leaves in its entry anyway. Where packets are counted for another reason (`nf_conntrack_acct`), how many a client has sent can say it too
//! (`sync_threshold`), as in the kernel. What another director told of is not told on by walks,
//! until a packet of it comes here.

use std::collections::VecDeque;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Owners, Path, rewrite};
use crate::conntrack::{Accounting, Zones};
use crate::flow::carry::is_unicast;
use crate::flow::edit::{Edit, FTP};
use crate::flow::template::{ASSURED, template_protocol, templated};
use crate::flow::{Direction, Entry, FlowId, Method, NewFlow, Tuple};
use crate::ids::{ServerId, WorkerId};
use crate::ipvs::sctp::SctpState;
use crate::ipvs::state::{self, TcpState};
use crate::packet::Packet;
use crate::tables::{FIRST_LOCAL_PORT, Forward, Helper, Protocol, Server, Sysctls};
use crate::time::{Tick, Timeout};

/// A connection, or a persistence template, as directors tell each other of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedFlow {
    /// From the client to the virtual service. A template's client has port 0; of a call's there is a digest
    /// in its place.
    pub original: Tuple,
    pub is_template: bool,
    pub server: (IpAddr, u16),
    /// It goes past all real servers ([`super::bypass`]): `server` is where its client sends to.
    pub is_past: bool,
    /// What the real server sees as its client: the client, or a local endpoint. Of a template the client,
    /// with port 0.
    pub local: (IpAddr, u16),
    /// Of the virtual service that has it, if that is one by mark; else 0.
    pub mark: u32,
    /// The teller's. Whoever takes over goes by its own tables.
    pub method: Method,
    /// The protocol's own, in the kernel's numbers; of a template 1 when it is assured, else 0.
    pub state: u8,
    /// Counts as active at its real server.
    pub is_active: bool,
    /// How long it rests in this state.
    pub timeout: Timeout,
    /// The director that tells of it was itself told, and has seen no packet since.
    pub is_hearsay: bool,
    /// How its streams are edited.
    pub edit: Option<Edit>,
}

impl SharedFlow {
    /// Whether the real server knows the connection by a local endpoint.
    pub fn is_full_nat(&self) -> bool {
        !self.is_template && self.local != (self.original.src, self.original.sport)
    }

    /// The workers that are to be told of it: its owner, and before it the one that its answers come to,
    /// where that is another one.
    pub fn hearers(&self, owners: &Owners) -> ArrayVec<WorkerId, 2> {
        let owner = owners.of(self.original.src, self.original.sport);
        let answered = self.is_full_nat().then(|| owners.of_local(self.local.0, self.local.1));
        answered.filter(|&answered| answered != owner).into_iter().chain([owner]).collect()
    }
}

/// Which connections, and templates, a walk visits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// All that may be told of.
    Whole,
    /// Those that had packets since then. One that has no states (UDP) must have been there at the walk
    /// before: most are over sooner, and nobody would miss them.
    Since(Tick),
}

/// What became of a connection that another director told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    New,
    /// It was there; state and timer are as told now.
    Updated,
    /// It was there, and what was told of it is older than what is known here.
    Ignored,
    /// The real server is not that of the id any more.
    NoServer,
    /// The real server is reached by FullNAT here, and nobody says from what local endpoint.
    FullNat,
    NoRoom,
    /// No connection could be so.
    Unsound,
}

/// Connections whose state changed and that were not told of yet.
pub(super) struct Changed {
    ids: VecDeque<FlowId>,
}

impl Changed {
    /// More than change in one turn.
    const MOST: usize = 4096;

    /// Takes all memory that it will ever use.
    pub(super) fn new() -> Changed {
        Changed { ids: VecDeque::with_capacity(Changed::MOST) }
    }
}

impl<P: Packet> Path<P> {
    /// A connection's state changed, or a template began.
    #[inline(never)]
    pub(super) fn note_change(&mut self, id: FlowId) {
        if !self.is_told(id) {
            return;
        }
        if self.changed.ids.len() < Changed::MOST {
            self.changed.ids.push_back(id);
        } else {
            self.mine.flows.changes_untold.add(1);
        }
    }

    /// A client's packet was counted, the `packets`th of its connection.
    pub(super) fn note_packet(&mut self, id: FlowId, packets: u64) {
        let Sysctls { sync_threshold: first, sync_period: every, .. } = self.tables.settings.sysctls;
        let (first, every) = (u64::from(first), u64::from(every));
        let is_due = if every > 0 { packets % every == first } else { packets == first };
        if is_due {
            self.note_change(id);
        }
    }

    /// Tells of at most `budget` connections whose state changed. Returns whether there were any.
    pub fn tell_changed(&mut self, budget: u32, tell: &mut impl FnMut(SharedFlow)) -> bool {
        let count = self.changed.ids.len().min(budget as usize);
        for _ in 0..count {
            let Some(id) = self.changed.ids.pop_front() else { break };
            // It may be over by now, or another one that has its place; then that one is told of.
            if self.flows.is_live(id) && self.is_told(id) {
                tell(self.shared(id));
            }
        }
        count > 0
    }

    /// Tells of connections, looking at up to `budget` places of the table from `cursor` on (0 at first).
    /// Returns the next cursor, or `None` at the end.
    pub fn walk(
        &mut self,
        cursor: u32,
        budget: u32,
        walk: Walk,
        tell: &mut impl FnMut(SharedFlow),
    ) -> Option<u32> {
        let end = cursor.saturating_add(budget).min(self.flows.places());
        for place in cursor..end {
            let id = FlowId(place);
            if !self.flows.is_live(id) || !self.is_told(id) {
                continue;
            }
            let entry = self.flows.entry_mut(id);
            let is_due = match walk {
                Walk::Whole => true,
                Walk::Since(since) => {
                    let was_there = entry.note_walk() || entry.protocol() != Protocol::UDP;
                    was_there && !entry.is_hearsay() && entry.seen().is_at_or_after(since)
                }
            };
            if is_due {
                tell(self.shared(id));
            }
        }
        (end < self.flows.places()).then_some(end)
    }

    /// Takes over a connection that another director told of. `server` is the id of its real server, as
    /// whoever asks found it in the tables; they may be others by now.
    pub fn take_over(&mut self, told: &SharedFlow, server: ServerId, now: Tick) -> Taken {
        let SharedFlow { mut original, is_template, server: (address, port), local, state, timeout, .. } =
            *told;
        if !is_sound(told) {
            return Taken::Unsound;
        }
        if is_template {
            original.protocol = template_protocol(original.protocol);
        }
        let after = Tuple { src: local.0, sport: local.1, dst: address, dport: port, ..original };
        let reply = after.reversed();
        if original == reply {
            return Taken::Unsound;
        }
        if self.owner_of(original.src, original.sport) != self.worker {
            debug_assert_eq!(self.owners.of_local(local.0, local.1), self.worker);
            return self.point(&original, &reply, timeout, now);
        }
        let method = match self.method_of(told, server) {
            Ok(method) => method,
            Err(why_not) => return why_not,
        };
        let edit = told.edit.or_else(|| self.ftp_of(&original, server));
        let edit = edit.filter(|_| !method.is_one_way());
        if let Some(at) = self.flows.find(&original).filter(|at| at.direction() == Direction::Original) {
            if self.flows.tuple(at.id(), Direction::Reply) == reply {
                if told.is_hearsay {
                    return Taken::Ignored;
                }
                if !self.update(at.id(), told, now) {
                    self.end(at.id());
                    return Taken::NoRoom;
                }
                return Taken::Updated;
            }
            let is_end_of_another = !told.is_active && original.protocol != Protocol::UDP;
            // A template that is there has chosen already, as in the kernel.
            if told.is_hearsay || is_end_of_another || is_template {
                return Taken::Ignored;
            }
            self.end(at.id());
        } else if told.is_hearsay && !method.is_one_way() && self.flows.find(&reply).is_some() {
            // Its answers look like those of one that is known here.
            return Taken::Ignored;
        }
        let new = NewFlow {
            original,
            reply,
            method,
            deltas: rewrite::deltas_both_ways(&original, &after),
            server,
            state,
            timeout,
            now,
            zones: Zones::NONE,
        };
        let Some(id) = self.insert(&new) else { return Taken::NoRoom };
        if !self.bind_entered(id, edit) {
            self.mine.edits.full.add(1);
            self.flows.remove(id);
            return Taken::NoRoom;
        }
        self.mine.flows.taken_over.add(1);
        self.flows.entry_mut(id).set_hearsay();
        Taken::New
    }

    /// How its packets get to the real server by our tables.
    fn method_of(&self, told: &SharedFlow, server: ServerId) -> Result<Method, Taken> {
        let SharedFlow { original, is_template, server: (address, _), .. } = *told;
        if told.is_past {
            // What is for an address of ours goes past nobody.
            let is_bound = server == ServerId::BYPASS && !self.tables.routes.is_local(original.dst);
            return if is_bound { Ok(Method::Direct) } else { Err(Taken::Unsound) };
        }
        let is_still =
            |found: &&Server| found.address == address && server.index() < self.mine.server_capacity();
        let found = self.tables.services.server(server).filter(is_still).ok_or(Taken::NoServer)?;
        let is_mixed = original.dst.is_ipv6() != address.is_ipv6();
        let method = match found.forward {
            // Whatever the receiver's own method is: the real server knows the connection by that endpoint.
            _ if told.is_full_nat() && is_mixed => Method::Translated,
            _ if told.is_full_nat() => Method::Masq,
            Forward::FullNat if !is_template => return Err(Taken::FullNat),
            // Else that counts, as in the kernel.
            forward => forward.method(),
        };
        if is_mixed && method == Method::Masq && !is_template {
            return Err(Taken::Unsound);
        }
        Ok(method)
    }

    /// What the helper of its service needs, of a connection whose streams were not edited before: the kernel
    /// begins it there as well.
    fn ftp_of(&self, original: &Tuple, server: ServerId) -> Option<Edit> {
        let service = self.tables.services.of_server(server)?;
        let is_control = original.protocol == Protocol::TCP && original.dport == service.key.port;
        (is_control && service.options.helper == Some(Helper::Ftp)).then(|| Edit::new(FTP))
    }

    /// State, timer and edits become as told. False: there is no room for the latter.
    #[must_use]
    fn update(&mut self, id: FlowId, told: &SharedFlow, now: Tick) -> bool {
        let is_one_way = self.flows.entry(id).method().is_one_way();
        if let Some(edit) = told.edit.filter(|_| !is_one_way) {
            let is_kept = match self.flows.edit_mut(id) {
                Some(kept) => {
                    kept.replace(&edit);
                    true
                }
                None => self.flows.begin_edit(id, edit),
            };
            if !is_kept {
                self.mine.edits.full.add(1);
                return false;
            }
        }
        let entry = self.flows.entry_mut(id);
        entry.touch(now);
        if entry.is_template() {
            entry.set_state(told.state);
        } else if entry.state() != told.state {
            self.set_state(id, told.state);
        }
        self.flows.set_timeout(id, told.timeout);
        self.flows.entry_mut(id).set_hearsay();
        true
    }

    /// Whether other directors are told of it. Of one whose client was answered with a SYN cookie not before
    /// its server has answered as well: the client asks again for that.
    fn is_told(&self, id: FlowId) -> bool {
        is_told(self.flows.entry(id))
            && self.flows.edit(id).is_none_or(|edit| !edit.is_proxied() || edit.is_open())
            && self.is_at_threshold(id)
    }

    /// Whether its client has sent as many packets as `sync_threshold` asks for. That is not known where none are counted; and what ends, and a template, are told of whatever they had.
    fn is_at_threshold(&self, id: FlowId) -> bool {
        let least = self.tables.settings.sysctls.sync_threshold;
        let entry = self.flows.entry(id);
        let goes_on = || match entry.protocol() {
            Protocol::UDP => true,
            protocol => state::is_established(protocol, entry.state()),
        };
        let has_few = |counted: &Accounting| counted.packets[Direction::Original.index()] < least.into();
        least == 0 || entry.is_template() || !goes_on() || !self.flows.accounting(id).is_some_and(has_few)
    }

    fn shared(&self, id: FlowId) -> SharedFlow {
        let entry = self.flows.entry(id);
        let (original, reply) =
            (self.flows.tuple(id, Direction::Original), self.flows.tuple(id, Direction::Reply));
        let is_template = entry.is_template();
        let is_assured = || self.uses.is_assured(self.worker, id.0) || entry.state() & ASSURED != 0;
        SharedFlow {
            original: Tuple {
                protocol: templated(original.protocol).unwrap_or(original.protocol),
                ..original
            },
            is_template,
            server: (reply.src, reply.sport),
            is_past: entry.server() == ServerId::BYPASS,
            local: (reply.dst, reply.dport),
            mark: self.tables.services.of_server(entry.server()).and_then(|it| it.key.mark()).unwrap_or(0),
            method: entry.method(),
            state: if is_template { u8::from(is_assured()) } else { entry.state() },
            is_active: !is_template && !entry.is_inactive(),
            timeout: entry.timeout(),
            is_hearsay: entry.is_hearsay(),
            edit: self.flows.edit(id).map(Edit::told),
        }
    }
}

/// Whether other directors are told of a connection in this state: not before it is established. Of a
/// template while it binds.
fn is_told(entry: &Entry) -> bool {
    match entry.protocol() {
        // Of no virtual service: nobody asks for it.
        _ if entry.is_tracked() => false,
        Protocol::TCP => matches!(
            TcpState::from_u8(entry.state()),
            TcpState::Established
                | TcpState::FinWait
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::CloseWait
        ),
        Protocol::SCTP => matches!(
            SctpState::from_u8(entry.state()),
            SctpState::Established
                | SctpState::ShutdownSent
                | SctpState::ShutdownReceived
                | SctpState::ShutdownAckSent
                | SctpState::Closed
        ),
        Protocol::UDP => true,
        _ => entry.is_template() && !entry.is_invalid(),
    }
}

/// Whether there may be such a connection, or template.
fn is_sound(told: &SharedFlow) -> bool {
    let SharedFlow { original, is_template, local, state, timeout, edit, .. } = *told;
    timeout.0 > 0
        && is_local_sound(told)
        && (!told.is_past || is_past_soundly(told))
        && edit.is_none_or(|_| original.protocol == Protocol::TCP && !is_template)
        && (is_template || is_unicast(original.src))
        && is_unicast(original.dst)
        && match original.protocol {
            protocol if is_template => {
                state <= ASSURED
                    && local.1 == 0
                    && (original.sport != 0 || local.0 == original.src)
                    && templated(template_protocol(protocol)) == Some(protocol)
            }
            protocol => state::is_state(protocol, state),
        }
}

/// Whether what goes past all real servers is a connection to where its client sends to.
fn is_past_soundly(told: &SharedFlow) -> bool {
    let SharedFlow { original, is_template, server, edit, .. } = *told;
    !is_template && server == (original.dst, original.dport) && !told.is_full_nat() && edit.is_none()
}

/// Whether answers could come to this local endpoint.
fn is_local_sound(told: &SharedFlow) -> bool {
    let SharedFlow { original, server: (server, _), local: (address, port), .. } = *told;
    !told.is_full_nat()
        || original.protocol.has_ports()
            && is_unicast(address)
            && port >= FIRST_LOCAL_PORT
            && address.is_ipv6() == server.is_ipv6()
}
