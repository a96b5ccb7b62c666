//! Rules over the API: what a change of tables says, and what a table looks like.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spec::is_false;

/// The family of a rule's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleFamily {
    Ipv4,
    Ipv6,
}

/// Packets and bytes (of IP packets, headers included).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleCounts {
    pub packets: u64,
    pub bytes: u64,
}

/// Body of `POST /v1/rules`: done wholly, at one moment, or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleBatch {
    pub family: RuleFamily,
    /// Each table at most once.
    pub tables: Vec<TableChange>,
    /// Only find out whether it could be done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub test: bool,
}

/// What is to be done to one table, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TableChange {
    /// raw, mangle, nat, filter or security.
    pub table: String,
    /// Begin with built-in chains alone, without rules and with counts of zero; their policies stay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty: bool,
    pub commands: Vec<RuleCommand>,
}

/// One change of a table. A rule is its words as `iptables -S` prints them behind the chain's name; numbers of rules begin at 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum RuleCommand {
    Append {
        chain: String,
        rule: Vec<String>,
        #[serde(default)]
        counts: RuleCounts,
    },
    Insert {
        chain: String,
        at: usize,
        rule: Vec<String>,
        #[serde(default)]
        counts: RuleCounts,
    },
    Replace {
        chain: String,
        at: usize,
        rule: Vec<String>,
        #[serde(default)]
        counts: RuleCounts,
    },
    /// The first rule that is the same.
    Delete {
        chain: String,
        rule: Vec<String>,
    },
    DeleteAt {
        chain: String,
        at: usize,
    },
    /// Fails unless there is such a rule.
    Check {
        chain: String,
        rule: Vec<String>,
    },
    NewChain {
        chain: String,
    },
    /// The chain is there and empty: it is made, or its rules are removed.
    BeginChain {
        chain: String,
    },
    /// Must be empty, and no rule may lead to it. Without a chain: all of the operator's.
    DeleteChain {
        #[serde(default)]
        chain: Option<String>,
    },
    RenameChain {
        chain: String,
        to: String,
    },
    /// ACCEPT or DROP.
    SetPolicy {
        chain: String,
        policy: String,
        /// `None`: as they are.
        #[serde(default)]
        counts: Option<RuleCounts>,
    },
    /// Without a chain: all of them.
    Flush {
        #[serde(default)]
        chain: Option<String>,
    },
    /// Counts begin anew: of all chains, of one, or of one rule of it.
    Zero {
        #[serde(default)]
        chain: Option<String>,
        #[serde(default)]
        at: Option<usize>,
    },
}

/// Answer to a [`RuleBatch`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RuleReply {
    /// `None`: all is done.
    pub failed: Option<RuleFailure>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RuleFailure {
    /// Place in the batch's tables, from 0.
    pub table: usize,
    /// Place in the table's commands, from 0; that of their end when no single one is to blame.
    pub command: usize,
    pub error: RuleError,
    /// One line.
    pub message: String,
}

/// Why rules are not what they were to be; the words are those of iptables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum RuleError {
    #[error("Table does not exist (do you need to insmod?)")]
    NoSuchTable,
    #[error("No chain/target/match by that name")]
    NoSuchChain,
    #[error("Chain already exists")]
    ChainExists,
    #[error("File exists")]
    NameTaken,
    #[error("Too many links")]
    ChainInUse,
    #[error("Directory not empty")]
    ChainNotEmpty,
    #[error("Bad rule (does a matching rule exist in that chain?)")]
    NoSuchRule,
    #[error("Index of insertion too big")]
    BadInsertion,
    #[error("Index of replacement too big")]
    BadReplacement,
    #[error("Index of deletion too big")]
    BadDeletion,
    #[error("Bad built-in chain name")]
    NotBuiltIn,
    #[error("Bad policy name. Run `dmesg' for more information")]
    BadPolicy,
    #[error("Invalid argument. Run `dmesg' for more information")]
    Invalid,
    #[error("Too many levels of symbolic links")]
    Loop,
    #[error("Numerical result out of range")]
    OutOfRange,
    #[error("No chain/target/match by that name")]
    NotThere,
    #[error("Operation not supported")]
    NotSupported,
    /// There is no room for one more rule or chain.
    #[error("Cannot allocate memory")]
    Full,
    /// It names an IP set that is not there, or one of the other family; the message says which.
    #[error("No such set")]
    NoSuchSet,
    /// Words that are no rule; the message says why.
    #[error("Bad rule")]
    NotARule,
}

/// Answer to `GET /v1/rules`: the tables asked for, in the order in which hooks ask them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RulesReply {
    pub tables: Vec<TableView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TableView {
    pub table: String,
    /// The built-in ones first, then the others by name.
    pub chains: Vec<ChainView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChainView {
    pub name: String,
    /// Of a built-in chain.
    pub policy: Option<String>,
    /// What the policy decided on.
    pub counts: RuleCounts,
    pub rules: Vec<RuleView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    pub rule: Vec<String>,
    pub counts: RuleCounts,
}
