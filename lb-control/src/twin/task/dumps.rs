//! Reading what the kernel has: at the start, after an overrun, and where it does not tell what changed.

use std::io;
use std::time::Instant;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use tracing::{error, warn};

use super::super::mirror::{Mirror, Todo};
use super::super::nexthops::Nexthops;
use super::super::routes::RouteTables;
use super::super::rules::Rules;
use super::super::setup;
use super::super::socket::Message;
use super::{DATAGRAMS_WAITING, DUMP_INTERVAL, DUMP_RETRY, ROUTES_REST, Task};

impl Task {
    pub(super) async fn dump_due(&mut self) {
        let start = Instant::now();
        // What was said before the dump is in the dump: heard afterwards it would be taken for news.
        self.drain(DATAGRAMS_WAITING);
        let wanted = self.todo;
        (self.todo.dump_all, self.todo.dump_routes, self.todo.dump_rules) = (false, false, false);
        let done = if wanted.dump_all {
            self.dump_all().await
        } else {
            self.dump_parts(wanted.dump_rules, wanted.dump_routes).await
        };
        let took = start.elapsed();
        self.dump_not_before = Instant::now() + DUMP_INTERVAL.max(took * ROUTES_REST);
        if let Err(error) = done {
            error!(%error, "cannot read the kernel's tables; trying again");
            self.todo.dump_all = true;
            self.dump_not_before = Instant::now() + DUMP_RETRY;
        }
    }

    async fn dump_parts(&mut self, rules: bool, routes: bool) -> io::Result<()> {
        self.counters.dumps.add(1);
        if rules {
            let new = self.read_rules().await?;
            self.take_rules(new);
        }
        if routes {
            let new = self.read_routes().await?;
            self.take_routes(new);
        }
        Ok(())
    }

    pub(super) async fn dump_all(&mut self) -> io::Result<()> {
        self.counters.dumps.add(1);
        let link = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut new = self.read(link, AddressFamily::Unspec).await?;
        let address = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        new.absorb(self.read(address, AddressFamily::Unspec).await?);
        let rules = self.read_rules().await?;
        let routes = self.read_routes().await?;
        // After the routes: those name none that is not there yet.
        let nexthops = self.read_nexthops().await?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut neighbour = NeighbourMessage::default();
            neighbour.header.family = family;
            new.absorb(self.read(RouteNetlinkMessage::GetNeighbour(neighbour), family).await?);
        }
        let changed = Todo {
            build_interfaces: new.links != self.mirror.links,
            build_neighbours: new.neighbours != self.mirror.neighbours,
            ..Todo::default()
        };
        let lost = self.mirror.links.lost_to(&new.links);
        self.note_losses(lost);
        (self.mirror.links, self.mirror.neighbours) = (new.links, new.neighbours);
        self.note(changed);
        self.take_rules(rules);
        if nexthops != self.mirror.nexthops {
            self.mirror.nexthops = nexthops;
            self.note(Todo { build_routes: true, ..Todo::default() });
        }
        self.take_routes(routes);
        let now = Instant::now();
        for (key, state) in self.mirror.neighbours.states() {
            if self.upkeep.on_state(key, state, now) {
                self.upkeep.soon(key, now);
            }
        }
        Ok(())
    }

    fn take_rules(&mut self, new: Rules) {
        for rule in new.left_out() {
            if self.named_rules.insert(rule.clone()) {
                warn!(rule, "left out of the mirror: our routes are by destination only");
            }
        }
        if new != self.mirror.rules {
            self.mirror.rules = new;
            self.note(Todo { build_routes: true, ..Todo::default() });
        }
    }

    fn take_routes(&mut self, new: RouteTables) {
        if new != self.mirror.routes {
            self.mirror.routes = new;
            self.note(Todo { build_routes: true, ..Todo::default() });
        }
    }

    async fn read_rules(&mut self) -> io::Result<Rules> {
        let mut new = Mirror::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut rule = RuleMessage::default();
            rule.header.family = family;
            new.absorb(self.read(RouteNetlinkMessage::GetRule(rule), family).await?);
        }
        Ok(new.rules)
    }

    async fn read_routes(&mut self) -> io::Result<RouteTables> {
        let mut new = Mirror::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut route = RouteMessage::default();
            route.header.address_family = family;
            new.absorb(self.read(RouteNetlinkMessage::GetRoute(route), family).await?);
        }
        Ok(new.routes)
    }

    /// Kernels before 5.3 have none.
    async fn read_nexthops(&mut self) -> io::Result<Nexthops> {
        match self.requests.dump_nexthops().await {
            Err(error) if setup::is(&error, Errno::OPNOTSUPP) => Ok(Nexthops::default()),
            result => result,
        }
    }

    /// What one dump says. A kernel without IPv6 has nothing of it.
    async fn read(&mut self, request: RouteNetlinkMessage, family: AddressFamily) -> io::Result<Mirror> {
        let mut unreadable = Vec::new();
        let result = self
            .requests
            .dump(request, Mirror::default, |mirror, message| match message {
                Message::Route(_, inner) if is_of(family, &inner) => mirror.take_dumped(inner),
                Message::Unreadable(why) => unreadable.push(why),
                _ => {}
            })
            .await;
        for why in unreadable {
            self.unreadable(&why);
        }
        match result {
            Err(error)
                if family == AddressFamily::Inet6
                    && (setup::is(&error, Errno::OPNOTSUPP) || setup::is(&error, Errno::AFNOSUPPORT)) =>
            {
                Ok(Mirror::default())
            }
            result => result,
        }
    }
}

/// Asked for one family, a kernel without it answers with all families.
fn is_of(family: AddressFamily, message: &RouteNetlinkMessage) -> bool {
    let of = match message {
        RouteNetlinkMessage::NewRoute(route) => route.header.address_family,
        RouteNetlinkMessage::NewRule(rule) => rule.header.family,
        RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour.header.family,
        _ => return true,
    };
    of == family
}
