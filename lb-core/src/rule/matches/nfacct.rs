//! `nfacct`: counts what comes this far in a rule under a name, for `nfacct list`. Matches, if the name has no quota that is not used up yet.
//!
//! Source of the facts: Linux, `net/netfilter/xt_nfacct.c`; what is printed and refused: recorded from iptables 1.8.9.

use super::Match;
use crate::rule::account::{Account, LONGEST_ACCOUNT_NAME};
use crate::rule::prelude::*;
use crate::rule::text::quote_to;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct NfAcct {
    name: String,
    account: Kept<Account>,
}

impl NfAcct {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Extension for NfAcct {
    const NAME: &'static str = "nfacct";
    const OPTIONS: &'static [Opt] = &[opt("nfacct-name", 0).must()];

    fn take(&mut self, given: &mut Given<'_, '_>) -> Result<(), Error> {
        self.name = given.text(1, LONGEST_ACCOUNT_NAME)?;
        Ok(())
    }

    fn bind(&mut self, named: &mut Named) -> Result<(), Refused> {
        self.account.set(named.accounts.get(self.name.as_str()).ok_or(Refused::NotThere)?.clone());
        Ok(())
    }

    fn save(&self, out: &mut String, _: Family) {
        out.push_str(" --nfacct-name ");
        quote_to(out, &self.name);
    }

    fn list(&self, out: &mut String, _: &Style<'_>, _: &Header) {
        out.push_str(" nfacct-name ");
        quote_to(out, &self.name);
    }
}

impl Match for NfAcct {
    fn matches(&self, view: &mut View<'_>) -> bool {
        let bytes = u64::from(view.headers.ip_len);
        let matches = if view.is_dry { Account::would_match } else { Account::count };
        self.account.get().is_some_and(|account| matches(account, bytes))
    }
}
