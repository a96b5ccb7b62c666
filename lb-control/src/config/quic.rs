//! `quic_lb` of a `[[virtual_service]]`, and `quic_server_ids` of its real servers.

use hashbrown::HashMap;
use lb_core::ipvs::quic_lb::{CONFIGS, Config, ID_LEN, Key, MAX_IDS, NONCE_LEN, QuicLb, QuicServerId};
use lb_core::tables::Protocol;
use toml::de::DeValue;

use super::keys;
use super::read::{Errors, Table};

/// The configurations of a service; `None`: not each one can be read.
pub(super) fn configs(errors: &mut Errors<'_>, table: &Table<'_>, protocol: Protocol) -> Option<Vec<Config>> {
    let mut configs: Vec<Config> = Vec::new();
    let list = table.list(errors, "quic_lb").unwrap_or_default();
    for (index, value) in list.iter().enumerate() {
        let name = format!("{}: quic_lb number {}", table.name, index + 1);
        let Some(asked) = Table::new(errors, value, &keys::QUIC_LB, name) else { continue };
        let mut length = |key, range: std::ops::RangeInclusive<u8>| {
            if asked.get(key).is_none() {
                asked.missing(errors, key);
            }
            asked.integer(errors, key, u32::from(*range.start())..=u32::from(*range.end()))
        };
        let lengths = (length("server_id_length", ID_LEN), length("nonce_length", NONCE_LEN));
        let id = length("config_id", 0..=CONFIGS as u8 - 1);
        let key = key(errors, &asked);
        let (Some(id), (Some(id_len), Some(nonce_len))) = (id, lengths) else { continue };
        match Config::new(id, id_len, nonce_len, key) {
            Ok(config) => configs.push(config),
            Err(error) => asked.error(errors, &asked.at, "nonce_length", error),
        }
    }
    if let Some(value) = table.get("quic_lb") {
        if let Err(error) = QuicLb::default().set_configs(configs.clone()) {
            table.error(errors, &value.span(), "quic_lb", error);
        }
        if !matches!(protocol, Protocol::UDP | Protocol::ANY) {
            table.error(errors, &value.span(), "quic_lb", "is for protocol \"udp\" and for `fwmark`");
        }
    }
    (configs.len() == list.len()).then_some(configs)
}

/// Messages go into logs: they do not show what stands there.
fn key(errors: &mut Errors<'_>, table: &Table<'_>) -> Option<Key> {
    let value = table.get("key")?;
    let key = match value.get_ref() {
        DeValue::String(text) => Key::parse(text),
        _ => None,
    };
    if key.is_none() {
        table.error(errors, &value.span(), "key", "is no string of 32 hexadecimal digits");
    }
    key
}

/// The IDs of one real server. `known`: those of the others, with their addresses; `configs`: of the service, if they are known.
pub(super) fn server_ids(
    errors: &mut Errors<'_>,
    server: &Table<'_>,
    address: &str,
    configs: Option<&[Config]>,
    known: &mut HashMap<QuicServerId, String>,
) -> Vec<QuicServerId> {
    const KEY: &str = "quic_server_ids";
    let mut ids = Vec::new();
    for found in server.strings(errors, KEY) {
        let Some(id) = QuicServerId::parse(found.value) else {
            let text = format!("\"{}\" is not 1 to 15 bytes of two hexadecimal digits each", found.value);
            server.error(errors, &found.at, KEY, text);
            continue;
        };
        if let Some(configs) =
            configs.filter(|configs| configs.iter().all(|config| config.id_len() != id.len()))
        {
            let lengths: Vec<_> = configs.iter().map(|config| config.id_len().to_string()).collect();
            let there_are = match &lengths[..] {
                [] => "there is no quic_lb".to_owned(),
                lengths => format!("quic_lb has server_id_length {}", lengths.join(", ")),
            };
            server.error(errors, &found.at, KEY, format!("{id} is {} bytes long: {there_are}", id.len()));
        }
        if let Some(other) = known.insert(id.clone(), address.to_owned()) {
            server.error(errors, &found.at, KEY, format!("{id} stands twice: real server {other} has it"));
            continue;
        }
        if ids.len() == MAX_IDS {
            server.error(errors, &found.at, KEY, format!("{id} is one more than {MAX_IDS}"));
            continue;
        }
        ids.push(id);
    }
    ids
}
