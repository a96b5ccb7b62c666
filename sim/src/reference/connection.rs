//! What a connection keeps: its state, its time, what it counts as.

use lb_core::flow::Direction;
use lb_core::flow::template::templated;
use lb_core::ids::ServerId;
use lb_core::ipvs::state::TcpState;
use lb_core::path::FlowView;
use lb_core::tables::Protocol;
use lb_core::time::{Tick, Timeout};

use super::flows::{Connection, Number};
use super::parse::{Read, SYN};
use super::{Reference, tcp};

impl Reference {
    /// A packet has to do with a connection: from now on it may rest as long as the settings say now.
    pub(super) fn renew(&mut self, number: Number) {
        let settings = self.tables.settings;
        self.flows.change(number, |connection| {
            connection.timeout = match connection.original.protocol {
                Protocol::TCP => tcp::timeout(connection.state, &settings),
                _ => settings.udp,
            };
        });
    }

    pub(super) fn enter_state(&mut self, number: Number, state: TcpState) {
        let connection = self.flows.get(number);
        let (was, is) = (connection.state, tcp::is_active(state));
        if was == state {
            return;
        }
        let server = connection.server;
        if connection.is_active != is {
            let cell = self.counters.server(server);
            let (from, to) = if is { (&cell.inactive, &cell.active) } else { (&cell.active, &cell.inactive) };
            from.sub(1);
            to.add(1);
        }
        self.flows.change(number, |connection| (connection.state, connection.is_active) = (state, is));
        self.renew(number);
    }

    pub(super) fn count(&mut self, server: ServerId, direction: Direction, read: &Read) {
        self.touch(server);
        let cell = self.counters.server(server);
        let (packets, bytes) = match direction {
            Direction::Original => (&cell.in_packets, &cell.in_bytes),
            Direction::Reply => (&cell.out_packets, &cell.out_bytes),
        };
        packets.add(1);
        bytes.add(read.ip_len() as u64);
    }
}

/// A client's SYN for a connection that is over begins a new one.
pub(super) fn starts_anew(state: TcpState, read: &Read) -> bool {
    matches!(state, TcpState::TimeWait | TcpState::Close) && read.tcp_flags & SYN != 0
}

impl Reference {
    /// As `ipvsadm -Lnc` lists it.
    pub(super) fn view(&self, connection: &Connection) -> FlowView {
        let mut view = view(connection, self.now);
        if let Some(template) = connection.template {
            let is_assured =
                template.was_assured || self.team.shared().template_use(template.serial).is_assured;
            view.state = if is_assured { "ASSURED" } else { "NONE" };
        }
        view
    }
}

fn view(connection: &Connection, now: Tick) -> FlowView {
    let Connection { original, reply, server, state, .. } = *connection;
    FlowView {
        protocol: templated(original.protocol).unwrap_or(original.protocol),
        is_template: connection.template.is_some(),
        client: (original.src, original.sport),
        virtual_: (original.dst, original.dport),
        server: (reply.src, reply.sport),
        server_id: server,
        state: if original.protocol == Protocol::TCP { state.name() } else { "UDP" },
        expires_in: Timeout(connection.due().since(now)),
    }
}
