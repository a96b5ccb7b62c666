//! Sync daemons, as far as they are the operator's wishes: at most one a role.

use std::net::IpAddr;

use lb_core::tables::Forward;

use super::check::name;
use super::{Change, Model};
use crate::api::types::{
    Command, ErrorBody, ErrorKind, ForwardMethod, ServerSpec, ServiceAddress, SyncDaemon, SyncRole,
};

/// The IP packets that hold the longest message when nobody says how long it may be.
const MTU: u16 = 1500;
/// A backup takes messages of this length at least.
const LEAST_OF_BACKUP: u16 = 1024;
/// Bytes of IP and UDP before a message.
const HEADERS_IPV4: u16 = 20 + 8;
const HEADERS_IPV6: u16 = 40 + 8;
/// Longest name of a Linux interface.
const MAX_INTERFACE: usize = 15;

impl Model {
    /// The master first.
    pub fn sync_daemons(&self) -> impl Iterator<Item = &SyncDaemon> {
        self.sync.values()
    }

    /// Everything about a daemon but whether it runs and whether its interface is there.
    fn check_sync(&self, daemon: &SyncDaemon) -> Result<(), ErrorBody> {
        let role = daemon.role.name();
        let invalid =
            |what: String| Err(ErrorBody::new(ErrorKind::InvalidOperation, format!("sync {role}: {what}")));
        if !daemon.group.is_multicast() {
            return invalid(format!("group {} is no multicast address", daemon.group));
        }
        if daemon.port == 0 || daemon.ttl == 0 {
            return invalid("port and TTL must not be 0".to_owned());
        }
        if daemon.interface.len() > MAX_INTERFACE || daemon.interface.contains(['/', '\0']) {
            return invalid(format!("{:?} is no name of an interface", daemon.interface));
        }
        let is_mixed = |address: IpAddr, server: IpAddr| address.is_ipv6() != server.is_ipv6();
        let mixed = self.services().find_map(|service| {
            let mut servers = service.servers.iter();
            let server = servers.find(|server| {
                server.forward != Forward::FullNat && is_mixed(service.key.address, server.address)
            })?;
            Some((service, server.address))
        });
        match mixed {
            None => Ok(()),
            Some((service, server)) => invalid(format!(
                "{}: real server {server} is of another address family, which the kernel's sync messages cannot say",
                super::address(&service.key)
            )),
        }
    }

    /// Why a daemon could not be started, wherever its interface is.
    pub(crate) fn sync_refusal(&self, command: &Command) -> Option<ErrorBody> {
        let Command::StartSync(daemon) = command else { return None };
        self.check_sync(daemon).err()
    }

    pub(super) fn start_sync(&mut self, daemon: &SyncDaemon) -> Result<Change, ErrorBody> {
        self.check_sync(daemon)?;
        let SyncDaemon { role, group, maxlen, .. } = *daemon;
        if let Some(runs) = self.sync.get(&role) {
            let message = format!("sync {}: it runs already, on {}", role.name(), runs.interface);
            return Err(ErrorBody::new(ErrorKind::SyncRuns, message));
        }
        let headers = if group.is_ipv6() { HEADERS_IPV6 } else { HEADERS_IPV4 };
        let least = if role == SyncRole::Backup { LEAST_OF_BACKUP } else { 1 };
        let maxlen = if maxlen == 0 { MTU - headers } else { maxlen.clamp(least, u16::MAX - headers) };
        self.sync.insert(role, SyncDaemon { maxlen, ..daemon.clone() });
        Ok(Change { publish: true, ..Change::default() })
    }

    pub(super) fn stop_sync(&mut self, role: SyncRole) -> Result<Change, ErrorBody> {
        if self.sync.remove(&role).is_none() {
            let message = format!("sync {}: it does not run", role.name());
            return Err(ErrorBody::new(ErrorKind::NoSync, message));
        }
        Ok(Change { publish: true, ..Change::default() })
    }

    /// The kernel's messages have room for addresses of one family; a connection by FullNAT is told of in our own.
    pub(super) fn check_families(
        &self,
        service: &ServiceAddress,
        spec: &ServerSpec,
    ) -> Result<(), ErrorBody> {
        let is_told_of = spec.forward == ForwardMethod::FullNat || spec.server.is_ipv6() == service.is_ipv6();
        if self.sync.is_empty() || is_told_of {
            return Ok(());
        }
        let message = format!(
            "{}: it is of another address family than its service, which is not possible while a sync daemon runs",
            name(service, spec.server)
        );
        Err(ErrorBody::new(ErrorKind::InvalidOperation, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{ServiceSpec, SysctlValue};
    use crate::model::Limits;

    fn model() -> Model {
        Model::new(Limits { services: 4, servers: 4 })
    }

    fn maxlen(role: SyncRole, group: &str, maxlen: u16) -> u16 {
        let mut model = model();
        let group = group.parse().expect("an address");
        let daemon = SyncDaemon { maxlen, group, ..SyncDaemon::new(role, "eth0") };
        model.apply(&Command::StartSync(daemon)).expect("right");
        model.sync_daemons().next().expect("it runs").maxlen
    }

    #[test]
    fn the_longest_message_is_the_kernels() {
        use SyncRole::{Backup, Master};
        assert_eq!((maxlen(Master, "224.0.0.81", 0), maxlen(Backup, "ff02::88", 0)), (1472, 1452));
        assert_eq!((maxlen(Master, "224.0.0.81", 1), maxlen(Backup, "224.0.0.81", 1)), (1, 1024));
        assert_eq!(maxlen(Backup, "ff02::88", u16::MAX), 65_535 - 48);
    }

    #[test]
    fn one_of_each_role_runs_and_is_kept_for_the_next_start() {
        let mut before = model();
        let start = |role| Command::StartSync(SyncDaemon::new(role, "eth0"));
        let mut apply = |command: Command| before.apply(&command).map_err(|error| error.error);
        assert!(apply(start(SyncRole::Backup)).is_ok_and(|change| change.publish));
        assert!(apply(start(SyncRole::Master)).is_ok());
        assert_eq!(apply(start(SyncRole::Master)).expect_err("twice"), ErrorKind::SyncRuns);
        assert!(apply(Command::Flush).is_ok(), "does not end them");
        let mut after = model();
        after.apply_all(&before.commands().collect::<Vec<_>>()).expect("right");
        assert!(after.sync_daemons().eq(before.sync_daemons()));
        assert_eq!(after.sync_daemons().map(|daemon| daemon.role).collect::<Vec<_>>(), SyncRole::ALL);
        for role in SyncRole::ALL {
            let settings = after.settings(Default::default());
            assert_eq!((settings.is_sharing, settings.is_standby), (role == SyncRole::Master, false));
            assert!(after.apply(&Command::StopSync { role }).is_ok_and(|change| change.publish));
            let error = after.apply(&Command::StopSync { role }).expect_err("gone");
            assert_eq!(error.error, ErrorKind::NoSync);
        }
    }

    #[test]
    fn with_backup_only_a_backup_serves_nobody() {
        for (value, role, is_standby) in
            [(1, SyncRole::Backup, true), (0, SyncRole::Backup, false), (1, SyncRole::Master, false)]
        {
            let mut model = model();
            let sysctl = SysctlValue { name: "backup_only".to_owned(), value };
            model.apply(&Command::SetSysctl(sysctl)).expect("right");
            model.apply(&Command::StartSync(SyncDaemon::new(role, "eth0"))).expect("right");
            assert_eq!(model.settings(Default::default()).is_standby, is_standby, "{value} {role:?}");
        }
    }

    #[test]
    fn a_daemon_and_a_real_server_of_another_family_exclude_each_other() {
        let mut model = model();
        let service = "tcp/192.0.2.1:80".parse().expect("valid");
        let server = ServerSpec {
            forward: ForwardMethod::Tunnel,
            ..ServerSpec::new("[2001:db8::11]:80".parse().expect("valid"))
        };
        let start = Command::StartSync(SyncDaemon::new(SyncRole::Master, "eth0"));
        let add = Command::AddServer { service, server: server.clone() };
        model.apply(&Command::AddService(ServiceSpec::new(service, "rr"))).expect("right");
        for (first, second, undo) in [
            (&add, &start, Command::DeleteServer { service, server: server.server }),
            (&start, &add, Command::StopSync { role: SyncRole::Master }),
        ] {
            model.apply(first).expect("right");
            let error = model.apply(second).expect_err("not both");
            assert_eq!(error.error, ErrorKind::InvalidOperation);
            assert!(error.message.contains("2001:db8::11"), "{error}");
            model.apply(&undo).expect("right");
        }
        let full_nat = ServerSpec { forward: ForwardMethod::FullNat, ..server.clone() };
        let add = Command::AddServer { service, server: full_nat };
        let delete = Command::DeleteServer { service, server: server.server };
        let stop = Command::StopSync { role: SyncRole::Master };
        for command in [&add, &start, &delete, &add] {
            model.apply(command).expect("both, by FullNAT");
        }
        model.apply(&Command::EditServer { service, server }).expect_err("not by a tunnel");
        model.apply(&stop).expect("right");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let daemon = SyncDaemon::new(SyncRole::Master, "eth0");
        for (wrong, word) in [
            (SyncDaemon { group: [192, 0, 2, 1].into(), ..daemon.clone() }, "192.0.2.1"),
            (SyncDaemon { port: 0, ..daemon.clone() }, "port"),
            (SyncDaemon { ttl: 0, ..daemon.clone() }, "TTL"),
            (SyncDaemon { interface: "much-too-long-a-name".into(), ..daemon.clone() }, "much-too"),
            (SyncDaemon { interface: "../x".into(), ..daemon }, "../x"),
        ] {
            let error = model().apply(&Command::StartSync(wrong)).expect_err(word);
            assert_eq!(error.error, ErrorKind::InvalidOperation);
            assert!(error.message.contains(word), "{error}");
        }
    }
}
