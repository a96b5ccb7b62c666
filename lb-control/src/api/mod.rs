//! The HTTP API: JSON over a UNIX socket.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/commands` with [`Batch`](types::Batch) | 200 [`BatchReply`](types::BatchReply), also when commands failed; 400 when the body is not a batch (nothing is done then) |
//! | `GET /v1/services` | [`ServicesReply`](types::ServicesReply): services, real servers, counts, rates |
//! | `GET /v1/services?service=tcp/192.0.2.1:80` | the same with that service alone; 404 `no_such_service` |
//! | `GET /v1/timeouts` | [`Timeouts`](types::Timeouts) |
//! | `GET /v1/sysctl` | the [`SysctlValue`](types::SysctlValue)s |
//! | `GET /v1/sync` | the [`SyncDaemon`](types::SyncDaemon)s |
//! | `GET /v1/connections` | `application/x-ndjson`, streamed: one [`Connection`](types::Connection) a line of those that the query's [`ConnectionFilter`](connections::ConnectionFilter) fits |
//! | `GET /v1/connections/count` | [`ConntrackCount`](conntrack::ConntrackCount) of those |
//! | `GET /v1/conntrack` | the same of [`Tracked`](conntrack::Tracked), those that the query's [`Filter`](conntrack::Filter) fits |
//! | `POST /v1/conntrack` | begins the connection of a [`ConntrackNew`](conntrack::ConntrackNew) |
//! | `DELETE /v1/conntrack` | ends those, and lists them |
//! | `PATCH /v1/conntrack` | sets a [`ConntrackChange`](conntrack::ConntrackChange) of those, and lists the changed ones |
//! | `GET /v1/conntrack/count` | [`ConntrackCount`](conntrack::ConntrackCount) of those |
//! | `GET /v1/conntrack/expectations` | an [`Expectation`](conntrack::Expectation) a line, of those that an [`ExpectationFilter`](conntrack::ExpectationFilter) fits |
//! | `POST /v1/conntrack/expectations` | has a connection's helper expect an [`ExpectationNew`](conntrack::ExpectationNew) |
//! | `DELETE /v1/conntrack/expectations` | expects those no more, and lists them |
//! | `GET /v1/conntrack/expectations/events` | an [`ExpectationEvent`](conntrack::ExpectationEvent) a line, of those, as they happen, without end |
//! | `GET /v1/conntrack/events` | a [`ConntrackEvent`](conntrack::ConntrackEvent) a line, of those, as they happen, without end |
//! | `GET /v1/conntrack/statistics` | list of [`ConntrackStatistics`](conntrack::ConntrackStatistics) |
//! | `POST /v1/sets` with lines of `ipset`, `?exist=true` | [`SetsReply`](types::SetsReply), also when a line failed |
//! | `GET /v1/sets` | the [`SetView`](crate::sets::SetView)s |
//! | `GET /v1/sets/list?name=…&format=save` | text as `ipset list` prints it; 404 when there is no such set |
//! | `GET /v1/fingerprints` | list of [`FingerprintView`](types::FingerprintView) |
//! | `GET /v1/status` | [`Status`](types::Status) |
//! | `GET /v1/ports` | list of [`PortView`](types::PortView) |
//! | `GET /v1/workers` | list of [`WorkerView`](types::WorkerView) |
//! | `GET /v1/drops` | list of [`DropView`](types::DropView), only those that are not 0 |
//! | `POST /v1/rules` with [`RuleBatch`](rules::RuleBatch) | 200 [`RuleReply`](rules::RuleReply), also when the batch could not be done |
//! | `GET /v1/rules?family=ipv4&table=filter` | [`RulesReply`](rules::RulesReply); without `table` all tables |
//! | `GET /v1/idletimers` | [`IdleTimersReply`](idle_timers::IdleTimersReply): how long it is until rules' timers run out |
//! | `GET /v1/nfacct` | [`AccountsReply`](accounts::AccountsReply): what rules count under a name |
//! | `POST /v1/nfacct` with [`AccountBatch`](accounts::AccountBatch) | 200 [`AccountReply`](accounts::AccountReply), also when the batch could not be done |
//! | `POST /v1/nfacct/reset?name=…` | [`AccountsReply`](accounts::AccountsReply): what they had counted; 404 when there is no such account. Without `name` all begin anew |
//! | `POST /v1/explain` with [`Probe`](explain::Probe) | [`Explanation`](explain::Explanation): what would become of such a packet; nothing changes |
//! | `GET /v1/trace?…` | `application/x-ndjson`, streamed: one [`TraceLine`](explain::TraceLine) a line of packets that the query fits |
//! | `GET /v1/openapi.json` | this API, described |
//! | `GET /metrics`, `/healthz`, `/readyz` | as on the TCP address |
//!
//! Every answer that is not 2xx has an [`ErrorBody`](types::ErrorBody), with the status that
//! [`ErrorKind::status`](types::ErrorKind::status) gives.
//!
//! One endpoint takes all changes, because order matters to an operator (`-A` before `-a`) and because a restore of
//! ten thousand lines is one request and one new set of tables. A command is done wholly or not at all; with
//! `"on_error": "rollback"` so is the batch.

pub mod accounts;
mod address;
mod command;
pub mod connections;
pub mod conntrack;
mod error;
mod events;
pub mod explain;
pub mod http;
pub mod idle_timers;
mod lines;
pub mod openapi;
mod page;
pub(crate) mod query;
pub mod rules;
mod scrape;
pub mod server;
mod spec;
mod trace;
pub mod types;
mod view;

#[cfg(test)]
mod tests;
