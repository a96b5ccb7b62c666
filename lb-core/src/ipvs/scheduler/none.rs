//! none: no scheduler. The service gets no new connection; those that there are go on, and a client with a persistence template keeps its real
//! server.
//!
//! Nothing is picked, so that workers share nothing.
//!
//! Source of the facts: Linux since 4.3, `net/netfilter/ipvs/ip_vs_ctl.c` and `ip_vs_core.c` (`svc->scheduler`).

pub(super) use super::Nothing as Compiled;
use super::{Facts, Loads, Request, Room, Stateless};
use crate::tables::Service;

pub(super) const FACTS: Facts = Facts::USUAL;

pub(super) type State = Stateless<Nobody>;

#[derive(Clone, Debug)]
pub(super) enum Nobody {}

impl State {
    #[inline]
    pub(super) fn pick(
        &mut self,
        _: &Compiled,
        _: &Service,
        _: &impl Loads,
        _: &Request,
        _: &mut Room,
    ) -> Option<usize> {
        None
    }
}
