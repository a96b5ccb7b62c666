//! A packet as rules see it, and what they may do with it.

use std::net::IpAddr;

use super::Family;
use super::copies::Copies;
use super::counted::Counted;
use super::event::{self, Event, Events, Said};
use super::labelled::Labelled;
use super::options::bits;
use super::targets::Refusal;
use crate::conntrack::helper::HelperId;
use crate::conntrack::{Accounting, CtState, Status, Template, Zones};
use crate::flow::{FlowId, Method, Tuple};
use crate::hook::Hook;
use crate::ids::ServerId;
use crate::nat::{Manip, Range};
use crate::syn_cookie::Offer;
use crate::tables::{InterfaceId, Tables};
use crate::time::Tick;
use crate::trail::{Step, Trail};
use crate::wire::array;
use crate::wire::parse::{Fragment, Headers};

/// A packet's connection, as tracked.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub state: CtState,
    pub is_reply: bool,
    pub status: Status,
    /// What the first packet had, and what answers have.
    pub original: Tuple,
    pub reply: Tuple,
    pub mark: u32,
    pub zones: Zones,
    /// The helper of the connection that announced it.
    pub told_by: HelperId,
    /// Seconds until it ends, if nothing more comes.
    pub expires: u32,
    /// What it has had, with this packet, where that is counted.
    pub counts: Option<Accounting>,
}

/// The virtual service of a packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    pub address: IpAddr,
    pub port: u16,
    pub method: Method,
    /// Of one that its client's persistence template holds: the port of the persistent service.
    pub held_by: Option<u16>,
    pub server: ServerId,
}

/// One packet at one hook. Rules read all of it, and write the mark, the connection's mark and the packet.
pub struct View<'a> {
    pub tables: &'a Tables,
    /// That of the worker.
    pub cpu: u32,
    /// From the Ethernet header on; of a chained packet its first segment.
    pub frame: &'a mut [u8],
    pub headers: &'a mut Headers,
    pub hook: Hook,
    /// Ends of the packet at this hook: what `nat` has translated by now is translated.
    pub tuple: Tuple,
    /// `None` of what the host itself sends.
    pub input: Option<InterfaceId>,
    /// `None` before the packet is routed, and of what is for the host itself.
    pub output: Option<InterfaceId>,
    pub mark: u32,
    pub connection: Option<Connection>,
    /// Of the connection, where there is one.
    pub labels: Labelled<'a>,
    /// Its entry, unless it is over or not entered yet; and what counts connections.
    pub flow: Option<FlowId>,
    pub counted: &'a mut Counted,
    /// Hops that are yet to be taken off its TTL here and that the kernel has taken off by this hook.
    pub hops: u8,
    /// Of no connection because a rule of table raw said so.
    pub is_untracked: bool,
    pub service: Option<Service>,
    pub now: Tick,
    /// Seconds since 1970, UTC.
    pub wall: u64,
    /// Where LOG leaves what it wants told.
    pub events: &'a Events,
    /// Nobody sent the packet: what is remembered from packet to packet is looked at and left as it is.
    pub is_dry: bool,
    /// Where it is written down what the packet meets, when somebody asks.
    pub trail: Option<&'a mut Trail>,
    /// Where TEE leaves copies, unless this is one, or nobody sent the packet.
    pub(crate) copies: Option<&'a mut Copies>,
    /// What it meets is told to the log: a rule of table raw said TRACE.
    pub is_traced: bool,
    pub effects: Effects,
}

/// What the caller is to do after the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// [`View::mark`] was written.
    pub has_mark: bool,
    /// [`View::tuple`] was written.
    pub has_tuple: bool,
    /// [`Connection::mark`] was written: to be kept with the connection.
    pub has_connection_mark: bool,
    /// It has a label that it had not.
    pub has_label: bool,
    /// The connection that it begins is masqueraded.
    pub masquerades: bool,
    /// The packet is not to be tracked.
    pub untracked: bool,
    /// A SYN that says no maximum segment size is to say this one.
    pub mss: Option<u16>,
    /// How it is to be tracked.
    pub template: Option<Template>,
}

/// What becomes of a packet at a hook of a table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    Accept,
    Drop,
    /// A program is asked, and none listens.
    Queue,
    /// Dropped, and the sender is told.
    Reject(Refusal),
    /// Table nat: this end of the connection becomes one of these.
    Nat(Manip, Range),
    /// A SYN, to be answered with a cookie, or the acknowledgement of one: its client is offered this.
    SynProxy(Offer),
}

impl View<'_> {
    pub fn family(&self) -> Family {
        if self.headers.is_ipv6 { Family::Ipv6 } else { Family::Ipv4 }
    }

    /// A rule matched, or a chain's end was met: the number under which it counts.
    #[inline]
    pub(super) fn meets(&mut self, counter: u32) {
        if let Some(trail) = &mut self.trail {
            trail.put(Step::Met(counter));
        }
        if self.is_traced {
            self.say(Said::Met(counter), "", 4);
        }
    }

    /// The packet is of no connection, unless a rule before has said how it is tracked.
    pub(crate) fn track_not(&mut self) {
        if self.effects.template.is_none() {
            self.effects.untracked = true;
            self.connection = None;
        }
    }

    /// The packet's connection is one of these, unless a rule before has said what.
    pub(crate) fn track_as(&mut self, template: &Template) {
        if !self.effects.untracked {
            self.effects.template.get_or_insert(*template);
        }
    }

    /// Leaves word of the system that sends such a packet, as far as there may be one more line of that.
    pub(crate) fn say_of_system(&self, said: Said) {
        /// Notice, as of all that the kernel says by itself.
        const LEVEL: u8 = 5;
        if self.events.may_name(self.now) {
            self.say(said, "", LEVEL);
        }
    }

    /// Leaves word of the packet for the log.
    pub(crate) fn say(&self, said: Said, prefix: &str, level: u8) {
        let mut frame = [0; event::KEPT];
        let kept = self.frame.len().min(event::KEPT);
        frame[..kept].copy_from_slice(&self.frame[..kept]);
        let ttl = usize::from(self.headers.l3) + if self.headers.is_ipv6 { 7 } else { 8 };
        if let Some(ttl) = frame.get_mut(ttl) {
            *ttl = self.left(*ttl);
        }
        self.events.put(Event {
            said,
            prefix: event::prefix(prefix),
            level,
            input: self.input,
            output: self.output,
            mark: self.mark,
            tuple: self.tuple,
            frame,
            kept: kept as u8,
            headers: *self.headers,
        });
    }

    #[inline]
    pub(crate) fn source(&self) -> u128 {
        bits(self.tuple.src)
    }

    #[inline]
    pub(crate) fn destination(&self) -> u128 {
        bits(self.tuple.dst)
    }

    /// TTL or hop limit, as the kernel has it at this hook.
    #[inline]
    pub(crate) fn ttl(&self) -> u8 {
        self.left(self.headers.ttl)
    }

    /// What is left of the TTL that stands in the packet: 0 is 255 and a hop, where a hop is taken off behind the rules. What has none left does not come
    /// here, unless it is not for us to say so.
    #[inline]
    fn left(&self, ttl: u8) -> u8 {
        match self.output {
            Some(_) => ttl.wrapping_sub(self.hops),
            None => ttl.saturating_sub(self.hops),
        }
    }

    #[inline]
    pub(crate) fn protocol(&self) -> u8 {
        self.headers.protocol.0
    }

    #[inline]
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.headers.fragment == Fragment::Later
    }

    pub(crate) fn input_name(&self) -> &str {
        self.name(self.input)
    }

    pub(crate) fn output_name(&self) -> &str {
        self.name(self.output)
    }

    fn name(&self, interface: Option<InterfaceId>) -> &str {
        interface
            .and_then(|id| self.tables.interfaces.get(id))
            .map_or("", |interface| interface.name.as_str())
    }

    /// The IP packet, without what pads the frame.
    pub(crate) fn packet(&self) -> &[u8] {
        let end = self.headers.end().min(self.frame.len());
        self.frame.get(usize::from(self.headers.l3)..end).unwrap_or_default()
    }

    /// The transport header and what follows; nothing in a later fragment.
    pub(crate) fn transport(&self) -> &[u8] {
        if self.is_later_fragment() {
            return &[];
        }
        let end = self.headers.end().min(self.frame.len());
        self.frame.get(usize::from(self.headers.l4)..end).unwrap_or_default()
    }

    /// The ports of TCP, UDP, SCTP, DCCP and UDP-Lite; of a later fragment what its first one had, where that is known.
    #[inline]
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        match self.protocol() {
            6 | 17 | 132 if self.is_later_fragment() && (self.tuple.sport, self.tuple.dport) == (0, 0) => {
                None
            }
            6 | 17 | 132 => Some((self.tuple.sport, self.tuple.dport)),
            33 | 136 => {
                let [a, b, c, d] = *array(self.transport(), 0)?;
                Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => None,
        }
    }

    /// TCP's header with its options.
    pub(crate) fn tcp(&self) -> Option<&[u8]> {
        if self.protocol() != 6 {
            return None;
        }
        let segment = self.transport();
        let len = usize::from(*segment.get(12)? >> 4) * 4;
        segment.get(..len).filter(|header| header.len() >= 20)
    }

    /// IPv4's TOS, IPv6's traffic class.
    pub(crate) fn tos(&self) -> u8 {
        tos(self.packet(), self.headers.is_ipv6)
    }
}

/// TOS or traffic class of an IP packet.
pub(crate) fn tos(packet: &[u8], is_ipv6: bool) -> u8 {
    match packet {
        [first, second, ..] if is_ipv6 => first << 4 | second >> 4,
        [_, second, ..] => *second,
        _ => 0,
    }
}
