//! `[sync]`: the daemons that share connections with other directors.

use std::net::IpAddr;

use toml::de::DeTable;

use super::read::{Errors, Table};
use super::{is_interface_name, keys, section};
use crate::api::types::{SyncDaemon, SyncRole};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sync {
    /// At most one a role, the master first.
    pub daemons: Vec<SyncDaemon>,
}

impl Sync {
    /// The daemon of a role.
    pub fn daemon(&self, role: SyncRole) -> Option<&SyncDaemon> {
        self.daemons.iter().find(|daemon| daemon.role == role)
    }
}

pub(super) fn sync(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Sync {
    let mut sync = Sync { daemons: Vec::new() };
    let Some(table) = section(errors, document, &keys::SYNC) else { return sync };
    let mut common = SyncDaemon::new(SyncRole::Master, "");
    if let Some(number) = table.integer(errors, "syncid", 0..=255) {
        common.syncid = number as u8;
    }
    if let Some(number) = table.integer(errors, "maxlen", 1..=65_507) {
        common.maxlen = number as u16;
    }
    if let Some(group) = group(errors, &table) {
        common.group = group;
    }
    if let Some(number) = table.integer(errors, "port", 1..=65_535) {
        common.port = number as u16;
    }
    if let Some(number) = table.integer(errors, "ttl", 1..=255) {
        common.ttl = number as u8;
    }
    for role in SyncRole::ALL {
        let Some(interface) = table.string(errors, role.name()) else { continue };
        if interface.value != "lo" && !is_interface_name(interface.value) {
            let text = format!("\"{}\" is no name of a Linux interface", interface.value);
            table.error(errors, &interface.at, role.name(), text);
        }
        sync.daemons.push(SyncDaemon { role, interface: interface.value.to_owned(), ..common.clone() });
    }
    sync
}

fn group(errors: &mut Errors<'_>, table: &Table<'_>) -> Option<IpAddr> {
    let found = table.string(errors, "group")?;
    let group = found.value.parse().ok().filter(IpAddr::is_multicast);
    if group.is_none() {
        let text = format!("\"{}\" is no multicast address, such as \"224.0.0.81\"", found.value);
        table.error(errors, &found.at, "group", text);
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HEAD: &str = "[dataplane]\nworkers = [1]\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";

    fn parse(text: &str) -> Result<Sync, Vec<String>> {
        let config = Config::parse(&format!("{HEAD}{text}"));
        config.map(|config| config.sync).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn both_roles_share_what_the_section_says() {
        let sync = parse(
            "[sync]\nmaster = \"eth1\"\nbackup = \"eth2\"\nsyncid = 9\ngroup = \"ff02::88\"\nttl = 3\n",
        );
        let sync = sync.expect("right");
        let common = SyncDaemon {
            syncid: 9,
            group: "ff02::88".parse().expect("an address"),
            ttl: 3,
            ..SyncDaemon::new(SyncRole::Master, "eth1")
        };
        let backup = SyncDaemon { role: SyncRole::Backup, interface: "eth2".to_owned(), ..common.clone() };
        assert_eq!(sync.daemons, [common, backup]);
        assert!(parse("").expect("right").daemons.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("group = \"192.0.2.1\"", "sync: group: \"192.0.2.1\" is no multicast address"),
            ("master = \"a b\"", "sync: master: \"a b\" is no name of a Linux interface"),
            ("ttl = 0", "sync: ttl: 0 is outside 1..=255"),
            ("refresh_period = 5", "refresh_period: unknown key"),
        ] {
            let errors = parse(&format!("[sync]\n{text}\n")).expect_err(text);
            assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
        }
    }
}
