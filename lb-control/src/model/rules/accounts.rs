//! The accounts that rules count in by name (`nfacct`): made and removed by the operator, zeroed by him alone.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use lb_core::rule::{Account, LONGEST_ACCOUNT_NAME, MOST_ACCOUNTS};

use super::{RuleTables, chains};
use crate::api::accounts::{AccountCommand, AccountError, AccountFailure, AccountView};
use crate::api::rules::RuleCounts;
use crate::one_line::one_line;

/// Those of one moment, in the order in which they were made: to be read when there is time for that. A copy costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub struct Accounts(Arc<[(Box<str>, Arc<Account>)]>);

impl Accounts {
    fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(known, _)| &**known == name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What would have to be said where there is none to make these, as they count now.
    pub fn commands(&self) -> Vec<AccountCommand> {
        let add = |(name, account): &(Box<str>, Arc<Account>)| AccountCommand::Add {
            name: name.to_string(),
            quota: account.quota().map(Into::into),
            counts: counts(account.counts()),
        };
        self.0.iter().map(add).collect()
    }
}

fn counts((packets, bytes): (u64, u64)) -> RuleCounts {
    RuleCounts { packets, bytes }
}

/// What it is called, and what it shows when it has counted so much.
fn view((name, account): &(Box<str>, Arc<Account>), counts: RuleCounts) -> AccountView {
    let quota = account.quota();
    let is_over = quota.is_some_and(|quota| {
        let counted = if quota.is_of_packets { counts.packets } else { counts.bytes };
        // The kernel finds out with a packet.
        counts.packets > 0 && counted >= quota.limit
    });
    AccountView { name: name.to_string(), counts, quota: quota.map(Into::into), over_quota: is_over }
}

fn check_name(name: &str) -> Result<(), AccountError> {
    let is_fine = (1..=LONGEST_ACCOUNT_NAME).contains(&name.len()) && !name.contains(char::is_control);
    if is_fine { Ok(()) } else { Err(AccountError::BadName) }
}

fn failure(command: usize, name: &str, error: AccountError) -> AccountFailure {
    let why = match error {
        AccountError::Exists => "there is one already".to_owned(),
        AccountError::InUse => "a rule names it".to_owned(),
        AccountError::NotThere => "there is none".to_owned(),
        AccountError::BadName => {
            format!("a name has 1 to {LONGEST_ACCOUNT_NAME} bytes and no control characters")
        }
        AccountError::Full => format!("there is room for {MOST_ACCOUNTS}"),
    };
    AccountFailure { command, error, message: one_line(format!("account {name:?}: {why}")) }
}

impl RuleTables {
    /// The accounts, to be read elsewhere.
    pub fn known_accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Does these commands or none of them. Rules go on as they are: those that name an account keep it.
    ///
    /// # Errors
    /// The first one that cannot be done.
    pub fn change_accounts(&mut self, commands: &[AccountCommand]) -> Result<(), AccountFailure> {
        let named: HashSet<&str> = match commands.iter().all(|it| matches!(it, AccountCommand::Add { .. })) {
            true => HashSet::new(),
            false => {
                let rules = chains(&self.tables).flat_map(|chain| &chain.rules);
                rules.flat_map(|held| held.rule.accounts()).collect()
            }
        };
        let mut all = self.accounts.0.to_vec();
        let mut by_name: HashMap<Box<str>, Arc<Account>> = self.named.accounts.clone();
        for (number, command) in commands.iter().enumerate() {
            let fails = |name: &str, error| Err(failure(number, name, error));
            match command {
                AccountCommand::Add { name, quota, counts } => {
                    if let Err(error) = check_name(name) {
                        return fails(name, error);
                    }
                    if by_name.contains_key(&**name) {
                        return fails(name, AccountError::Exists);
                    }
                    if by_name.len() == MOST_ACCOUNTS {
                        return fails(name, AccountError::Full);
                    }
                    let counts = (counts.packets, counts.bytes);
                    let made = Arc::new(Account::new(quota.map(Into::into), counts));
                    all.push((name.as_str().into(), made.clone()));
                    by_name.insert(name.as_str().into(), made);
                }
                AccountCommand::Delete { name } => {
                    if by_name.remove(&**name).is_none() {
                        return fails(name, AccountError::NotThere);
                    }
                    if named.contains(&**name) {
                        return fails(name, AccountError::InUse);
                    }
                }
                AccountCommand::Flush {} => by_name.retain(|name, _| named.contains(&**name)),
            }
        }
        // A name that was removed may have been given to another one since.
        all.retain(|(name, made)| by_name.get(name).is_some_and(|known| Arc::ptr_eq(known, made)));
        self.accounts = Accounts(all.into());
        self.named.accounts = by_name;
        Ok(())
    }

    /// All accounts in the order in which they were made.
    pub fn account_views(&self) -> Vec<AccountView> {
        self.accounts.0.iter().map(|known| view(known, counts(known.1.counts()))).collect()
    }

    /// Has all accounts, or one, count from 0 on; what they had counted. `None`: there is none of this name.
    pub fn reset_accounts(&self, only: Option<&str>) -> Option<Vec<AccountView>> {
        let reset = |known: &(Box<str>, Arc<Account>)| view(known, counts(known.1.take()));
        match only {
            None => Some(self.accounts.0.iter().map(reset).collect()),
            Some(name) => Some(vec![reset(&self.accounts.0[self.accounts.find(name)?])]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::accounts::{AccountQuota, QuotaUnit};
    use crate::api::rules::{RuleBatch, RuleError};

    fn add(name: &str) -> AccountCommand {
        AccountCommand::Add { name: name.to_owned(), quota: None, counts: RuleCounts::default() }
    }

    fn delete(name: &str) -> AccountCommand {
        AccountCommand::Delete { name: name.to_owned() }
    }

    fn rules(command: &str) -> RuleBatch {
        let text = format!(
            r#"{{"family": "ipv4", "tables": [{{"table": "filter", "commands": [{{{command}, "chain": "INPUT"}}]}}]}}"#
        );
        serde_json::from_str(&text).expect("a batch")
    }

    fn append(name: &str) -> RuleBatch {
        rules(&format!(r#""do": "append", "rule": ["-m", "nfacct", "--nfacct-name", "{name}"]"#))
    }

    fn names(tables: &RuleTables) -> Vec<String> {
        tables.account_views().into_iter().map(|view| view.name).collect()
    }

    fn error(done: Result<(), AccountFailure>) -> (usize, AccountError) {
        let failure = done.expect_err("refused");
        (failure.command, failure.error)
    }

    #[test]
    fn an_account_that_a_rule_names_stays_and_a_rule_names_none_that_is_not_there() {
        let mut tables = RuleTables::new(1);
        let refused = tables.apply(&append("web"), &[]).expect_err("no account");
        assert_eq!(refused.error, RuleError::NotThere);
        tables.change_accounts(&[add("web"), add("mail"), add("dns")]).expect("room");
        tables.apply(&append("web"), &[]).expect("there");
        let refused = tables.change_accounts(&[delete("web")]).expect_err("named");
        assert_eq!(refused.message, "account \"web\": a rule names it");
        tables.change_accounts(&[delete("mail"), AccountCommand::Flush {}]).expect("nobody's");
        assert_eq!(names(&tables), ["web"]);
        tables.apply(&rules(r#""do": "flush""#), &[]).expect("done");
        tables.change_accounts(&[delete("web")]).expect("nobody's any more");
        assert_eq!(names(&tables), [""; 0]);
        assert_eq!(tables.apply(&append("web"), &[]).expect_err("gone").error, RuleError::NotThere);
    }

    #[test]
    fn commands_are_done_wholly_or_not_at_all_and_there_is_room_for_so_many() {
        let mut tables = RuleTables::new(1);
        let long = "n".repeat(LONGEST_ACCOUNT_NAME + 1);
        for (commands, expected) in [
            (vec![add("a"), add("a")], (1, AccountError::Exists)),
            (vec![add("a"), delete("b")], (1, AccountError::NotThere)),
            (vec![add("a"), add("")], (1, AccountError::BadName)),
            (vec![add(&long)], (0, AccountError::BadName)),
            (vec![add("a\nb")], (0, AccountError::BadName)),
        ] {
            assert_eq!(error(tables.change_accounts(&commands)), expected);
            assert!(tables.known_accounts().is_empty());
        }
        let all: Vec<_> = (0..MOST_ACCOUNTS).map(|n| add(&n.to_string())).collect();
        tables.change_accounts(&all).expect("room");
        assert_eq!(error(tables.change_accounts(&[add("one more")])), (0, AccountError::Full));
        tables.change_accounts(&[delete("0"), add("one more")]).expect("room again");
        assert_eq!(names(&tables).last().map(String::as_str), Some("one more"));
        let anew: Vec<_> = ["5", "5", "6"].iter().flat_map(|name| [delete(name), add(name)]).collect();
        tables.change_accounts(&anew).expect("each makes room");
        let names = names(&tables);
        assert_eq!(names.len(), MOST_ACCOUNTS);
        assert_eq!(names[names.len() - 3..], ["one more", "5", "6"]);
    }

    #[test]
    fn what_was_counted_is_shown_and_begins_anew_when_it_is_taken() {
        let mut tables = RuleTables::new(1);
        let quota = Some(AccountQuota { unit: QuotaUnit::Bytes, limit: 90 });
        let counts = |packets, bytes| RuleCounts { packets, bytes };
        let full = AccountCommand::Add { name: "full".to_owned(), quota, counts: counts(1, 90) };
        let empty = AccountCommand::Add { name: "empty".to_owned(), quota, counts: counts(0, 0) };
        tables.change_accounts(&[full, empty, add("plain")]).expect("room");
        let kept = tables.known_accounts().commands();
        let shown = |views: Vec<AccountView>| -> Vec<_> {
            views.into_iter().map(|view| (view.counts.bytes, view.over_quota)).collect()
        };
        assert_eq!(shown(tables.account_views()), [(90, true), (0, false), (0, false)]);
        assert_eq!(tables.reset_accounts(Some("nobody")), None);
        assert_eq!(shown(tables.reset_accounts(Some("full")).expect("there")), [(90, true)]);
        assert_eq!(shown(tables.reset_accounts(None).expect("all")), [(0, false); 3]);
        let mut again = RuleTables::new(2);
        again.change_accounts(&kept).expect("as they were");
        assert_eq!(shown(again.account_views()), [(90, true), (0, false), (0, false)]);
    }
}
