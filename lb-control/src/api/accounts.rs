//! Accounts over the API: packets and bytes that rules count under a name (`-m nfacct`).

use axum::Json;
use axum::extract::{Request, State};
use lb_core::rule;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rules::RuleCounts;
use super::server::{Api, Asked, no_more_than, read_json, read_query};
use super::spec::is_false;
use super::types::{ErrorBody, ErrorKind};

/// Commands of one batch: all can be exchanged for others.
const MAX_COMMANDS: usize = 2 * rule::MOST_ACCOUNTS;

/// What a quota is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuotaUnit {
    Bytes,
    Packets,
}

/// Up to so much a rule that names the account does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountQuota {
    pub unit: QuotaUnit,
    pub limit: u64,
}

impl From<AccountQuota> for rule::AccountQuota {
    fn from(AccountQuota { unit, limit }: AccountQuota) -> rule::AccountQuota {
        rule::AccountQuota { is_of_packets: unit == QuotaUnit::Packets, limit }
    }
}

impl From<rule::AccountQuota> for AccountQuota {
    fn from(rule::AccountQuota { is_of_packets, limit }: rule::AccountQuota) -> AccountQuota {
        AccountQuota { unit: if is_of_packets { QuotaUnit::Packets } else { QuotaUnit::Bytes }, limit }
    }
}

/// One change of the accounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum AccountCommand {
    Add {
        /// 1 to 31 bytes without control characters.
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota: Option<AccountQuota>,
        /// From where it counts on.
        #[serde(default)]
        counts: RuleCounts,
    },
    /// No rule may name it.
    Delete { name: String },
    /// Removes all that no rule names.
    Flush {},
}

/// Body of `POST /v1/nfacct`: done wholly, or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountBatch {
    pub commands: Vec<AccountCommand>,
}

/// Answer to an [`AccountBatch`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AccountReply {
    /// `None`: all is done.
    pub failed: Option<AccountFailure>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountFailure {
    /// Place in the batch, from 0.
    pub command: usize,
    pub error: AccountError,
    /// One line.
    pub message: String,
}

/// Why accounts are not what they were to be; the words are the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AccountError {
    /// There is one of this name.
    #[error("Device or resource busy")]
    Exists,
    /// A rule names it.
    #[error("Device or resource busy")]
    InUse,
    #[error("No such file or directory")]
    NotThere,
    #[error("Invalid argument")]
    BadName,
    #[error("Cannot allocate memory")]
    Full,
}

/// Answer to `GET /v1/nfacct`, and to `POST /v1/nfacct/reset`: the accounts in the order in which they were made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AccountsReply {
    pub accounts: Vec<AccountView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountView {
    pub name: String,
    pub counts: RuleCounts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<AccountQuota>,
    /// The quota is used up.
    #[serde(default, skip_serializing_if = "is_false")]
    pub over_quota: bool,
}

/// The accounts.
#[utoipa::path(get, path = "/v1/nfacct", responses((status = 200, body = AccountsReply)))]
pub(super) async fn accounts(State(api): State<Api>) -> Result<Json<AccountsReply>, ErrorBody> {
    Ok(Json(AccountsReply { accounts: api.control.ask(|control| control.accounts()).await? }))
}

/// Makes accounts, and removes them.
#[utoipa::path(post, path = "/v1/nfacct", request_body = AccountBatch, responses(
    (status = 200, description = "done, or not: see `failed`", body = AccountReply),
    (status = 400, description = "no change of accounts; nothing was done", body = ErrorBody),
    (status = 413, description = "longer than 16 MiB, or more than 8,192 commands", body = ErrorBody),
))]
pub(super) async fn change_accounts(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<AccountReply>, ErrorBody> {
    let AccountBatch { commands } = read_json(request).await?;
    no_more_than(MAX_COMMANDS, commands.len())?;
    let failed = api.control.ask(move |control| control.change_accounts(&commands)).await?.err();
    Ok(Json(AccountReply { failed }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichAccount {
    name: Option<String>,
}

/// Has accounts count from 0 on; says what they had counted.
#[utoipa::path(post, path = "/v1/nfacct/reset", params(
    ("name" = Option<String>, Query, description = "only this one")
), responses(
    (status = 200, body = AccountsReply),
    (status = 404, description = "no such account", body = ErrorBody),
))]
pub(super) async fn reset_accounts(
    State(api): State<Api>,
    which: Asked<WhichAccount>,
) -> Result<Json<AccountsReply>, ErrorBody> {
    let WhichAccount { name } = read_query(which)?;
    let no_such = format!("there is no account {:?}", name.as_deref().unwrap_or_default());
    let taken = api.control.ask(move |control| control.reset_accounts(name.as_deref())).await?;
    let accounts = taken.ok_or_else(|| ErrorBody::new(ErrorKind::NotFound, no_such))?;
    Ok(Json(AccountsReply { accounts }))
}
