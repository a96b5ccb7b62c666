//! How accounts are listed.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::accounts::{AccountQuota, AccountView, QuotaUnit};

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Format {
    #[default]
    Plain,
    Xml,
    Json,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nothing where there is no account.
pub(super) fn listing(accounts: &[AccountView], format: Format, now: u64) -> String {
    if accounts.is_empty() {
        return String::new();
    }
    let rows = accounts.iter().map(|account| match format {
        Format::Plain => plain(account),
        Format::Xml => xml(account),
        Format::Json => json(account),
    });
    match format {
        Format::Plain => rows.collect(),
        Format::Xml => {
            format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<nfacct>\n{}</nfacct>\n",
                rows.collect::<String>()
            )
        }
        Format::Json => {
            let rows = rows.collect::<Vec<_>>().join(",\n");
            format!("{{ \"timestamp\" : {now}, \n  \"nfacct_counters\" : [\n{rows}\n] }}\n")
        }
    }
}

fn unit(quota: AccountQuota) -> &'static str {
    match quota.unit {
        QuotaUnit::Bytes => "byte",
        QuotaUnit::Packets => "packet",
    }
}

fn plain(account: &AccountView) -> String {
    let AccountView { name, counts, quota, over_quota } = account;
    let mut line = format!("{{ pkts = {:020}, bytes = {:020}", counts.packets, counts.bytes);
    if let Some(quota) = *quota {
        let is_over = if *over_quota { "yes" } else { "no" };
        // Writing to a String cannot fail.
        let _ = write!(line, ", quota = {:020}, mode = {}, overquota = {is_over}", quota.limit, unit(quota));
    }
    line + &format!(" }} = {name};\n")
}

fn xml(account: &AccountView) -> String {
    let name = account.name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (packets, bytes) = (account.counts.packets, account.counts.bytes);
    format!("<obj><name>{name}</name><pkts>{packets:020}</pkts><bytes>{bytes:020}</bytes></obj>\n")
}

fn json(account: &AccountView) -> String {
    let AccountView { name, counts, quota, over_quota } = account;
    let mut row = format!("  {{ \"pkts\" : {}, \"bytes\" : {}", counts.packets, counts.bytes);
    if let Some(quota) = *quota {
        let (mode, is_over) = (unit(quota), u8::from(*over_quota));
        let limit = quota.limit;
        // Writing to a String cannot fail.
        let _ = write!(row, ", \"quota\" : {limit}, \"mode\" : \"{mode}\", \"overquota\" : {is_over}");
    }
    row + &format!(", \"name\" : {} }}", serde_json::Value::from(name.as_str()))
}
