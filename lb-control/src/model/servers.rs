//! Real servers of services: how they are added, changed and deleted.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use hashbrown::HashSet;
use lb_core::ipvs::quic_lb::QuicServerId;
use lb_core::tables::{Server, Service, ServiceKey};

use super::check::{
    self, check_one_packet, check_ranges, check_server, full, name, no_such_server, service_not_defined,
};
use super::trash::Removed;
use super::{Change, Entry, Model, place, quic};
use crate::api::types::{ErrorBody, ErrorKind, ForwardMethod, ServerSpec, ServiceAddress};

impl Model {
    pub(super) fn throw_away(&mut self, key: ServiceKey, server: &Server, incarnation: u64) {
        let &Server { id, upper_threshold, ref overloaded, .. } = server;
        let overloaded = overloaded.clone();
        let removed = Removed { id, incarnation, overloaded, upper_threshold, rests_since: None };
        self.server_ids.throw_away((place(&key), server.address, server.port), removed);
    }

    /// `failed` gets the place among `specs` and says whether the others are added.
    pub(super) fn add_servers<'s>(
        &mut self,
        address: &ServiceAddress,
        specs: impl Iterator<Item = &'s ServerSpec>,
        change: &mut Change,
        mut failed: impl FnMut(usize, ErrorBody) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(Entry { service, incarnation, .. }) = self.entry(address).cloned() else {
            return specs.enumerate().try_for_each(|(index, _)| failed(index, service_not_defined(address)));
        };
        let mut known: HashSet<SocketAddr> =
            service.servers.iter().map(|server| SocketAddr::new(server.address, server.port)).collect();
        let mut added = Vec::new();
        let mut quic = service.quic_lb.as_deref().cloned().unwrap_or_default();
        let mut names_more = false;
        let mut flow = ControlFlow::Continue(());
        for (index, spec) in specs.enumerate() {
            let ids = quic::ids(address, spec, &service, &quic, None);
            match self.new_server(address, &service, incarnation, spec, &mut known, ids, change) {
                Ok((server, ids)) => {
                    names_more |= !ids.is_empty();
                    quic.set_ids(server.id, ids);
                    added.push(server);
                }
                Err(error) => flow = failed(index, error),
            }
            if flow.is_break() {
                break;
            }
        }
        if !added.is_empty() {
            change.add(Change::of(service.key));
            self.change(address, service.scheduler(), |servers| {
                servers.splice(..0, added.into_iter().rev());
            });
            if names_more {
                self.change_quic(address, |now| *now = quic);
            }
        }
        flow
    }

    /// A real server with an id. `known`: those of the service.
    fn new_server(
        &mut self,
        address: &ServiceAddress,
        service: &Service,
        incarnation: u64,
        spec: &ServerSpec,
        known: &mut HashSet<SocketAddr>,
        quic_ids: Result<Vec<QuicServerId>, ErrorBody>,
        change: &mut Change,
    ) -> Result<(Server, Vec<QuicServerId>), ErrorBody> {
        self.check_families(address, spec)?;
        check_ranges(address, spec)?;
        if known.contains(&spec.server) {
            let message = format!("{}: already exists", name(address, spec.server));
            return Err(ErrorBody::new(ErrorKind::ServerExists, message));
        }
        check_server(address, spec)?;
        if service.options.one_packet {
            check_one_packet(address, [spec].into_iter().map(asks_for_full_nat))?;
        }
        let forward = check::forward(address, spec)?;
        check::check_method(address, spec.server, &service.options, forward)?;
        let quic_ids = quic_ids?;
        if !self.server_ids.has_room() {
            return Err(full(name(address, spec.server), "real servers", self.limits.servers));
        }
        let (id, before) =
            match self.server_ids.bring_back(&(place(&service.key), spec.server.ip(), spec.server.port())) {
                Some(removed) => {
                    // Its counts come back, unless it was removed with its service.
                    if removed.incarnation != incarnation {
                        change.zeroed_servers.insert(removed.id);
                    }
                    (removed.id, Some((removed.overloaded, removed.upper_threshold)))
                }
                None => {
                    let Some(id) = self.server_ids.take(&mut change.forgotten_servers) else {
                        let what = "real servers, and as many removed ones that have connections";
                        return Err(full(name(address, spec.server), what, self.limits.servers));
                    };
                    change.zeroed_servers.insert(id);
                    (id, None)
                }
            };
        known.insert(spec.server);
        // Connections that ended while it was away cleared nothing: the daemon looks at that ([`relief`](crate::relief)).
        let (overloaded, old_upper) = before.unwrap_or_default();
        let mut server = Server {
            upper_threshold: spec.upper_threshold,
            lower_threshold: spec.lower_threshold,
            overloaded,
            ..Server::new(id, (spec.server.ip(), spec.server.port()), spec.weight, forward)
        };
        server.after_edit(old_upper);
        Ok((server, quic_ids))
    }

    pub(super) fn edit_server(
        &mut self,
        address: &ServiceAddress,
        spec: &ServerSpec,
    ) -> Result<Change, ErrorBody> {
        let Some(entry) = self.entry(address) else { return Err(service_not_defined(address)) };
        self.check_families(address, spec)?;
        check_ranges(address, spec)?;
        let Some(position) = position(&entry.service, spec.server) else {
            return Err(no_such_server(address, spec.server));
        };
        check_server(address, spec)?;
        if entry.service.options.one_packet {
            check_one_packet(address, [spec].into_iter().map(asks_for_full_nat))?;
        }
        let forward = check::forward(address, spec)?;
        check::check_method(address, spec.server, &entry.service.options, forward)?;
        let (service, server) = (&entry.service, &entry.service.servers[position]);
        let quic = service.quic_lb.as_deref().cloned().unwrap_or_default();
        let ids = quic::ids(address, spec, service, &quic, Some(server))?;
        let changed_ids = (ids != quic.ids(server.id)).then_some((server.id, ids));
        let (old_upper, scheduler, key) =
            (entry.service.servers[position].upper_threshold, entry.service.scheduler(), entry.service.key);
        self.change(address, scheduler, |servers| {
            let server = &mut servers[position];
            server.set_weight(spec.weight);
            server.forward = forward;
            server.upper_threshold = spec.upper_threshold;
            server.lower_threshold = spec.lower_threshold;
            server.after_edit(old_upper);
        });
        if let Some((id, ids)) = changed_ids {
            self.change_quic(address, |quic| quic.set_ids(id, ids));
        }
        Ok(Change::of(key))
    }

    pub(super) fn delete_server(
        &mut self,
        address: &ServiceAddress,
        server: SocketAddr,
    ) -> Result<Change, ErrorBody> {
        let Some(entry) = self.entry(address) else { return Err(service_not_defined(address)) };
        let Some(position) = position(&entry.service, server) else {
            return Err(no_such_server(address, server));
        };
        let (service, incarnation) = (entry.service.clone(), entry.incarnation);
        self.change(address, service.scheduler(), |servers| drop(servers.remove(position)));
        if service.quic_lb.is_some() {
            self.change_quic(address, |quic| quic.set_ids(service.servers[position].id, Vec::new()));
        }
        self.throw_away(service.key, &service.servers[position], incarnation);
        Ok(Change::of(service.key))
    }
}

fn asks_for_full_nat(spec: &ServerSpec) -> (SocketAddr, bool) {
    (spec.server, spec.forward == ForwardMethod::FullNat)
}

fn position(service: &Service, at: SocketAddr) -> Option<usize> {
    service.servers.iter().position(|server| server.port == at.port() && server.address == at.ip())
}
