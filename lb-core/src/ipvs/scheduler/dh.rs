//! dh, destination hashing: the address that the client asked for names the real server. Of use to services by firewall mark
//! before caches. Weights other than 0 do not matter.
//!
//! 256 buckets are dealt out to the servers one by one, in the order of the list. A bucket whose server is quiesced or
//! overloaded refuses. Stateless: all workers pick the same.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_dh.c`, and recorded picks.

use super::sh::{bucket, deal, fold};
use super::{Change, Facts, Loads, Request, Room, Stateless};
use crate::tables::{Server, Service};

pub(super) const FACTS: Facts = Facts { is_stateless: true, ..Facts::USUAL };

/// Indices into the list of servers; empty without servers.
#[derive(Clone, Debug)]
pub(super) struct Compiled(Box<[u32]>);

impl Compiled {
    pub(super) fn new(_: Option<&Compiled>, change: &Change<'_>) -> Compiled {
        Compiled(deal(change.servers, |_| 1))
    }
}

pub(super) type State = Stateless<Dh>;

#[derive(Clone, Debug)]
pub(super) enum Dh {}

impl State {
    #[inline]
    pub(super) fn pick(
        &mut self,
        compiled: &Compiled,
        service: &Service,
        _: &impl Loads,
        request: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        let index = *compiled.0.get(bucket(fold(request.virtual_.0)))? as usize;
        service.servers.get(index).is_some_and(Server::takes_new).then_some(index)
    }
}
