//! What is in use after a reload, and what the log says of it.

use tracing::{info, warn};

use crate::api::types::Command;
use crate::config::{AddressChange, Config, Reload, Said};

/// Changes of one reload that are logged one by one.
const CHANGES_LOGGED: usize = 100;

impl Config {
    /// `new`, with the values that need a restart as they are in use.
    pub(super) fn followed_by(&self, new: Config) -> Config {
        let mut dataplane = self.dataplane.clone();
        dataplane.forwarding = new.dataplane.forwarding;
        dataplane.drain_secs = new.dataplane.drain_secs;
        let mut ports = self.ports.clone();
        for port in &mut ports {
            if let Some(named) = new.ports.iter().find(|named| named.name == port.name) {
                port.addresses.clone_from(&named.addresses);
            }
        }
        Config { dataplane, ports, api: self.api.clone(), ..new }
    }
}

pub(super) fn log_reload(reload: &Reload) {
    for key in &reload.restart {
        warn!("reload: needs a restart: {key}");
    }
    log_commands("reload", &reload.commands);
    for AddressChange { port, address, is_added } in &reload.addresses {
        // The host says when it has done so.
        let what = if *is_added { "is to be added" } else { "is to go" };
        info!("reload: port {port}: address {address} {what}");
    }
    if let Some(forwarding) = reload.forwarding {
        info!("reload: forwarding is {}", if forwarding { "on" } else { "off" });
    }
    if let Some(marks) = &reload.marks {
        info!("reload: there are {} rules for marks", marks.0.len());
    }
    let changes = reload.commands.len()
        + reload.addresses.len()
        + usize::from(reload.forwarding.is_some())
        + usize::from(reload.marks.is_some());
    info!(changes, "reloaded");
}

pub(super) fn log_commands(why: &str, commands: &[Command]) {
    for command in commands.iter().take(CHANGES_LOGGED) {
        info!("{why}: {}", Said(command));
    }
    if let Some(more @ 1..) = commands.len().checked_sub(CHANGES_LOGGED) {
        info!("{why}: and {more} changes more");
    }
}
