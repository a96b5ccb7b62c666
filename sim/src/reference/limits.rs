//! How many connections a service may have, and how many new ones in a second, of all and of each source: a list of what each connection counts in, and a bucket
//! each, whatever room there is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_core::drop::DropReason;
use lb_core::tables::{ConnLimits, ConnRate, Service};
use lb_core::time::Tick;

use super::Reference;
use super::connection::State;
use super::flows::Number;

/// A service's limiter, and the source if it is each one's.
pub(super) type Counted = (u64, Option<IpAddr>);

/// Hundredths of connections that may begin, as of a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    has: u64,
    at: Tick,
}

impl Reference {
    /// Why a connection of `client` may not begin now. If it may, it has paid.
    pub(super) fn exceeds(&self, service: &Service, client: IpAddr) -> Option<DropReason> {
        if let Some(reason) = self.is_full(service, client) {
            return Some(reason);
        }
        let limiter = service.limiter.as_ref()?.number();
        let ConnLimits { rate, source_rate, .. } = service.options.limits;
        let source = source(&service.options.limits, client);
        if !source_rate.is_none_or(|rate| self.pay((limiter, Some(source)), rate)) {
            return Some(DropReason::SourceConnRate);
        }
        let is_within = rate.is_none_or(|rate| self.pay((limiter, None), rate));
        (!is_within).then_some(DropReason::ServiceConnRate)
    }

    /// The same by number alone, which costs nothing.
    pub(super) fn is_full(&self, service: &Service, client: IpAddr) -> Option<DropReason> {
        let limiter = service.limiter.as_ref()?.number();
        let limits = service.options.limits;
        let count = |of: Counted| self.team.shared().limited.get(&of).copied().unwrap_or(0);
        if limits.connections > 0 && count((limiter, None)) >= limits.connections {
            return Some(DropReason::ServiceConnLimit);
        }
        let of_source = (limiter, Some(source(&limits, client)));
        let is_full = limits.source_connections > 0 && count(of_source) >= limits.source_connections;
        is_full.then_some(DropReason::SourceConnLimit)
    }

    fn pay(&self, of: Counted, rate: ConnRate) -> bool {
        let now = self.now;
        let most = u64::from(rate.burst) * 100;
        let mut shared = self.team.shared();
        let bucket = shared.buckets.entry(of).or_insert(Bucket { has: most, at: now });
        bucket.has += u64::from(now.since(bucket.at)) * u64::from(rate.per_second);
        bucket.has = bucket.has.min(most);
        bucket.at = now;
        let is_enough = bucket.has >= 100;
        bucket.has -= if is_enough { 100 } else { 0 };
        is_enough
    }

    /// A connection counts where its service is limited now, and wherever it counted before.
    pub(super) fn count_towards_limits(&mut self, number: Number) {
        let tables = self.tables.clone();
        let connection = self.flows.get(number);
        let client = connection.original.src;
        let service = tables.services.of_server(connection.server);
        if connection.template.is_some() || connection.state == State::Awaited || connection.state.is_over() {
            return;
        }
        let Some(service) = service.filter(|service| service.limiter.is_some()) else { return };
        let limiter = service.limiter.as_ref().map_or(0, |limiter| limiter.number());
        let limits = service.options.limits;
        let all = (limits.connections > 0).then_some((limiter, None));
        let each = (limits.source_connections > 0).then(|| (limiter, Some(source(&limits, client))));
        let all_and_each = all.into_iter().chain(each);
        let new: Vec<_> = all_and_each.filter(|of| !connection.counts_in.contains(of)).collect();
        for &of in &new {
            *self.team.shared().limited.entry(of).or_insert(0) += 1;
        }
        self.flows.change(number, |connection| connection.counts_in.extend(new));
    }

    /// It ends, or is only remembered.
    pub(super) fn count_no_more(&self, counts_in: Vec<Counted>) {
        let mut shared = self.team.shared();
        for of in counts_in {
            *shared.limited.get_mut(&of).expect("it is counted there") -= 1;
        }
    }
}

fn source(limits: &ConnLimits, client: IpAddr) -> IpAddr {
    match (client, limits.source_prefix) {
        (client, None) => client,
        (IpAddr::V4(client), Some(len)) => {
            let rest = 32 - u32::from(len);
            Ipv4Addr::from(u32::from(client) >> rest << rest).into()
        }
        (IpAddr::V6(client), Some(len)) => {
            let rest = 128 - u32::from(len);
            Ipv6Addr::from(u128::from(client) >> rest << rest).into()
        }
    }
}
