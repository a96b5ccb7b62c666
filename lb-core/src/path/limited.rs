//! Limits of virtual services ([`limiter`](crate::ipvs::limiter)) on the road: a packet that would begin a connection is asked about, what is entered is counted.
//!
//! Asked about is what a service takes as the first packet of a connection, behind all that drops it anyway (`draining`, `drop_packet`, `drop_newcomers`) and before it is
//! scheduled, so that who is refused moves no scheduler and makes no persistence template. It is dropped silently: a client's next try may find room. By the ways that there are:
//!
//! - *SYN cookies*: the acknowledgement of a cookie is asked about, which is what opens the connection. Who is refused then sends its data again, and is asked about again.
//! - *Persistence*: when the first packet comes, with its rates, and by number once more when it is back from the worker with its template.
//! - *One-packet scheduling, flood mode by hash*: each packet for itself that could begin a connection. None is entered, so that rates alone are of effect. What is in the middle of a stream is not
//!   asked about.
//! - *An ICMP error that is scheduled* as a first packet is.
//!
//! Not asked about, but counted, is what other connections have announced (FTP), what another director told of, and what the process before left.

use std::net::IpAddr;

use super::Path;
use crate::flow::{Direction, FlowId};
use crate::ids::ServiceId;
use crate::ipvs::limiter::{Limit, Limiter};
use crate::ipvs::state;
use crate::packet::Packet;
use crate::time::Tick;

impl<P: Packet> Path<P> {
    /// What a connection of `client` that would begin now exceeds; it is counted at its service.
    #[cold]
    pub(super) fn exceeds(
        &self,
        limiter: &Limiter,
        service: ServiceId,
        client: IpAddr,
        now: Tick,
    ) -> Option<Limit> {
        if limiter.displaces(client, now) {
            self.mine.flows.unlimited.add(1);
        }
        let limit = limiter.exceeded(client, self.is_dry, now)?;
        self.refused_by(limit, service);
        Some(limit)
    }

    /// The same of one whose rates are paid: there may be more connections by now.
    #[cold]
    pub(super) fn is_full_by_now(
        &self,
        limiter: &Limiter,
        service: ServiceId,
        client: IpAddr,
    ) -> Option<Limit> {
        let limit = limiter.full(client)?;
        self.refused_by(limit, service);
        Some(limit)
    }

    fn refused_by(&self, limit: Limit, service: ServiceId) {
        self.mine.service(service).limited[limit as usize].add(1);
    }

    /// A connection counts from now on, if its service is limited and it is not over. Called when it is entered, and when the tables have changed: its service may be
    /// limited since.
    #[cold]
    pub(super) fn count_towards_limits(&mut self, id: FlowId) {
        let entry = self.flows.entry(id);
        // What is kept beside connections has protocols of its own.
        let is_one = entry.protocol().has_ports() && !state::is_over(entry.protocol(), entry.state());
        if !is_one || self.is_dry {
            return;
        }
        let service = self.tables.services.of_server(entry.server());
        let Some(limiter) = service.and_then(|service| service.limiter.as_ref()) else { return };
        let client = self.flows.tuple(id, Direction::Original).src;
        if !limiter.count(&mut self.limited, id, client) {
            self.mine.flows.unlimited.add(1);
        }
    }
}
