//! The mirror of what the kernel has: messages go in, and what must be built anew comes out.

use netlink_packet_route::RouteNetlinkMessage;

use super::links::{IfIndex, Links};
use super::neighbours::{NeighbourChange, NeighbourTable};
use super::nexthops::Nexthops;
use super::routes::{RouteChange, RouteTables};
use super::rules::Rules;
use super::socket::Message;

#[derive(Default)]
pub(super) struct Mirror {
    pub(super) links: Links,
    pub(super) rules: Rules,
    pub(super) routes: RouteTables,
    pub(super) nexthops: Nexthops,
    pub(super) neighbours: NeighbourTable,
}

/// What a message, or several, made necessary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Todo {
    pub(super) build_interfaces: bool,
    pub(super) build_routes: bool,
    pub(super) build_neighbours: bool,
    pub(super) dump_rules: bool,
    pub(super) dump_routes: bool,
    pub(super) dump_all: bool,
}

impl Todo {
    pub(super) fn merge(&mut self, other: Todo) {
        self.build_interfaces |= other.build_interfaces;
        self.build_routes |= other.build_routes;
        self.build_neighbours |= other.build_neighbours;
        self.dump_rules |= other.dump_rules;
        self.dump_routes |= other.dump_routes;
        self.dump_all |= other.dump_all;
    }
}

/// The outcome of one message.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) todo: Todo,
    pub(super) neighbour: Option<NeighbourChange>,
    pub(super) unreadable: Option<String>,
}

impl Mirror {
    /// Applies an event.
    pub(super) fn apply(&mut self, message: Message) -> Applied {
        let mut applied = Applied::default();
        let todo = &mut applied.todo;
        match message {
            Message::Nexthop(id, nexthop) => {
                todo.build_routes = self.nexthops.put(id, nexthop) && self.routes.uses_nexthops();
            }
            Message::NexthopGone(id) => {
                self.nexthops.remove(id);
                todo.dump_routes = self.routes.uses_nexthops();
            }
            Message::Unreadable(why) => applied.unreadable = Some(why),
            Message::Route(header, inner) => match inner {
                RouteNetlinkMessage::NewLink(link) => {
                    let change = self.links.apply_link(&link);
                    todo.build_interfaces = change.changed;
                    todo.build_routes = change.mtu_of.is_some_and(|index| self.routes.uses_link(index));
                    todo.dump_routes = self.may_have_lost_routes(change.state_of);
                }
                RouteNetlinkMessage::DelLink(link) => {
                    let change = self.links.remove_link(&link);
                    todo.build_interfaces = change.changed;
                    todo.dump_routes = self.may_have_lost_routes(change.state_of);
                    if let Some(index) = change.state_of {
                        self.neighbours.remove_link(index);
                    }
                }
                RouteNetlinkMessage::NewAddress(address) => {
                    todo.build_interfaces = self.links.apply_address(&address);
                }
                RouteNetlinkMessage::DelAddress(address) => {
                    if let Some(gone) = self.links.remove_address(&address) {
                        todo.build_interfaces = true;
                        // The kernel drops routes with this `src` without a message for each.
                        todo.dump_routes = self.routes.uses_source(gone);
                    }
                }
                RouteNetlinkMessage::NewRoute(route) => {
                    on_route(todo, self.routes.add(&route, header.flags));
                }
                RouteNetlinkMessage::DelRoute(route) => on_route(todo, self.routes.remove(&route)),
                RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => todo.dump_rules = true,
                RouteNetlinkMessage::NewNeighbour(neighbour) => {
                    applied.neighbour = self.neighbours.apply(&neighbour);
                }
                RouteNetlinkMessage::DelNeighbour(neighbour) => {
                    applied.neighbour = self.neighbours.remove(&neighbour);
                }
                _ => {}
            },
        }
        applied.todo.build_neighbours |= applied.neighbour.is_some_and(|change| change.is_shown);
        applied
    }

    /// Takes one object of a dump in.
    pub(super) fn take_dumped(&mut self, message: RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                self.links.apply_link(&link);
            }
            RouteNetlinkMessage::NewAddress(address) => {
                self.links.add_dumped_address(&address);
            }
            RouteNetlinkMessage::NewRule(rule) => self.rules.add(&rule),
            RouteNetlinkMessage::NewRoute(route) => self.routes.add_dumped(&route),
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                self.neighbours.apply(&neighbour);
            }
            _ => {}
        }
    }

    /// Adds what another dump said: of other kinds of objects, or of the other family.
    pub(super) fn absorb(&mut self, other: Mirror) {
        self.links.absorb(other.links);
        self.rules.absorb(other.rules);
        self.routes.absorb(other.routes);
        self.nexthops.absorb(other.nexthops);
        self.neighbours.absorb(other.neighbours);
    }

    /// When a link changes its state the kernel drops, kills or revives IPv4 routes without a message for each
    /// (`fib_table_flush` and `fib_sync_up` in Linux's net/ipv4 tell the hardware, not rtnetlink).
    fn may_have_lost_routes(&self, link: Option<IfIndex>) -> bool {
        link.is_some_and(|index| self.routes.uses_link(index))
    }
}

fn on_route(todo: &mut Todo, change: RouteChange) {
    match change {
        RouteChange::None => {}
        RouteChange::Changed => todo.build_routes = true,
        RouteChange::Unclear => {
            todo.build_routes = true;
            todo.dump_routes = true;
        }
    }
}
