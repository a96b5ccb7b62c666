//! What the operator may ask for, by itself and in batches.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address::ServiceAddress;
use super::error::ErrorBody;
use super::spec::{ServerSpec, ServiceSpec};

/// Idle seconds after which a connection is forgotten. 0 in a command: leave as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP after the server's FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

/// What a sync daemon does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// Tells other directors of this one's connections.
    Master,
    /// Takes over the connections that other directors tell of.
    Backup,
}

impl SyncRole {
    pub const ALL: [SyncRole; 2] = [SyncRole::Master, SyncRole::Backup];

    /// As in the config file and for `ipvsadm`.
    pub const fn name(self) -> &'static str {
        match self {
            SyncRole::Master => "master",
            SyncRole::Backup => "backup",
        }
    }
}

/// A switch of the kernel's IPVS, by the kernel's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SysctlValue {
    pub name: String,
    pub value: u32,
}

/// A daemon that shares connections with other directors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    pub role: SyncRole,
    /// Linux interface that leads to the other directors.
    pub interface: String,
    /// Directors with another number are not heard; a backup with 0 hears all.
    #[serde(default)]
    pub syncid: u8,
    /// Longest message, bytes of UDP data; 0: what 1500 bytes of IP hold.
    #[serde(default)]
    pub maxlen: u16,
    #[serde(default = "SyncDaemon::default_group")]
    #[schema(value_type = String)]
    pub group: IpAddr,
    #[serde(default = "SyncDaemon::default_port")]
    pub port: u16,
    #[serde(default = "SyncDaemon::default_ttl")]
    pub ttl: u8,
}

impl SyncDaemon {
    /// The kernel's defaults.
    pub fn new(role: SyncRole, interface: &str) -> SyncDaemon {
        SyncDaemon {
            role,
            interface: interface.to_owned(),
            syncid: 0,
            maxlen: 0,
            group: SyncDaemon::default_group(),
            port: SyncDaemon::default_port(),
            ttl: SyncDaemon::default_ttl(),
        }
    }

    fn default_group() -> IpAddr {
        IpAddr::from([224, 0, 0, 81])
    }

    fn default_port() -> u16 {
        8848
    }

    fn default_ttl() -> u8 {
        1
    }
}

/// One change. Each is done wholly or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    AddService(ServiceSpec),
    /// Everything but the real servers is replaced.
    EditService(ServiceSpec),
    DeleteService {
        service: ServiceAddress,
    },
    AddServer {
        service: ServiceAddress,
        server: ServerSpec,
    },
    /// Everything but address and port is replaced.
    EditServer {
        service: ServiceAddress,
        server: ServerSpec,
    },
    DeleteServer {
        service: ServiceAddress,
        #[schema(value_type = String)]
        server: SocketAddr,
    },
    /// Deletes all services.
    Flush,
    /// Sets statistics to 0, of one service or of all.
    Zero {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceAddress>,
    },
    SetTimeouts(Timeouts),
    SetSysctl(SysctlValue),
    StartSync(SyncDaemon),
    StopSync {
        role: SyncRole,
    },
    /// What a system's SYN looks like, for rules that ask `osf`; one that is there already is no error.
    AddFingerprint {
        /// As in `pf.os`: window:ttl:df:size:options:genre:version:subtype:details.
        line: String,
    },
    RemoveFingerprint {
        line: String,
    },
}

/// What happens after a command of a batch that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The others are done: as `ipvsadm -R`.
    #[default]
    Continue,
    /// What was done before it is undone: the batch is done wholly or not at all.
    Rollback,
}

/// Body of `POST /v1/commands`. All of it takes effect on the packet path at the same moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub commands: Vec<Command>,
    #[serde(default)]
    pub on_error: OnError,
}

/// Answer to a [`Batch`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BatchReply {
    /// Commands done.
    pub done: usize,
    /// Commands that failed, in their order.
    pub failed: Vec<Failure>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Place in the batch, from 0.
    pub index: usize,
    #[serde(flatten)]
    pub error: ErrorBody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_a_stable_form_and_defaults() {
        let json = r#"{"commands": [
            {"add_service": {"service": "tcp/192.0.2.1:80"}},
            {"add_server": {"service": "tcp/192.0.2.1:80", "server": {"server": "10.0.0.1:8080"}}},
            {"zero": {}},
            "flush",
            {"set_timeouts": {"tcp": 900, "tcp_fin": 120, "udp": 300}}
        ]}"#;
        let batch: Batch = serde_json::from_str(json).expect("valid");
        let service = "tcp/192.0.2.1:80".parse().expect("valid");
        assert_eq!(
            batch.commands,
            [
                Command::AddService(ServiceSpec::new(service, "wlc")),
                Command::AddServer {
                    service,
                    server: ServerSpec::new("10.0.0.1:8080".parse().expect("valid"))
                },
                Command::Zero { service: None },
                Command::Flush,
                Command::SetTimeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }),
            ]
        );
        assert_eq!(batch.on_error, OnError::Continue);
        let again: Batch =
            serde_json::from_str(&serde_json::to_string(&batch).expect("serialises")).expect("reads");
        assert_eq!(again, batch);
    }

    #[test]
    fn unknown_fields_of_a_command_are_errors() {
        for json in [
            r#"{"commands": [{"add_service": {"service": "tcp/192.0.2.1:80", "typo": true}}]}"#,
            r#"{"commands": [{"zero": {"typo": "tcp/192.0.2.1:80"}}]}"#,
            r#"{"commands": [{"delete_service": {"service": "tcp/192.0.2.1:80", "typo": 1}}]}"#,
            r#"{"commands": [{"set_timeouts": {"tcp": 0, "tcp_fin": 0, "udp": 0, "typo": 1}}]}"#,
            r#"{"commands": [], "typo": 1}"#,
        ] {
            let error = serde_json::from_str::<Batch>(json).expect_err("unknown field");
            assert!(error.to_string().contains("typo"), "{error}");
        }
    }
}
