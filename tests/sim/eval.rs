//! Working out the values of a statement in a modelled session.

use crate::exec::{Outcome, fault, row};
use crate::message::Message;
use crate::replicas::unmask;
use crate::session::{Fault, Session};
use crate::sql::Expr;
use std::fmt::Write as _;

impl Session {
    /// SELECT.
    pub(crate) fn select(
        &mut self,
        exprs: &[Expr],
        values: &[Option<String>],
    ) -> Result<Outcome, Fault> {
        let mut count = 1;
        let mut cells = Vec::new();
        for expr in exprs {
            if let Expr::Call(name, args) = expr
                && name == "rows"
                && let Some(Expr::Text(number)) = args.first()
            {
                count = number.parse().unwrap_or(1);
            }
            cells.push(self.value(expr, values)?);
        }
        let one = |number: usize| {
            let mut cells = cells.clone();
            if count != 1
                && let Some(Some(first)) = cells.first_mut()
            {
                let _infallible = write!(first, "#{number}");
            }
            row(&cells)
        };
        let rows = (0..count).map(one).collect();
        Ok(Outcome { columns: exprs.len(), rows, tag: format!("SELECT {count}") })
    }

    /// COPY TO STDOUT.
    pub(crate) fn copy_out(
        &mut self,
        exprs: &[Expr],
        values: &[Option<String>],
    ) -> Result<Outcome, Fault> {
        let outcome = self.select(exprs, values)?;
        let mut rows = vec![Message::new(b'H', [0, 0, 1, 0, 0])];
        let count = outcome.rows.len();
        rows.extend(outcome.rows.into_iter().map(|row| Message::new(b'd', &row.body[6..])));
        rows.push(Message::new(b'c', []));
        Ok(Outcome { columns: 0, rows, tag: format!("COPY {count}") })
    }

    /// The value of one expression.
    pub(crate) fn value(
        &mut self,
        expr: &Expr,
        values: &[Option<String>],
    ) -> Result<Option<String>, Fault> {
        match expr {
            Expr::Text(text) => Ok(Some(text.clone())),
            Expr::Null => Ok(None),
            Expr::Param(number) => Ok(values.get(*number).cloned().flatten()),
            Expr::Call(name, args) => {
                let mut given = Vec::new();
                for arg in args {
                    given.push(self.value(arg, values)?);
                }
                self.call(name, &given)
            }
        }
    }

    fn call(&mut self, name: &str, given: &[Option<String>]) -> Result<Option<String>, Fault> {
        let argument = |at: usize| given.get(at).cloned().flatten().unwrap_or_default();
        match name {
            "rows" | "sleep" => Ok(Some(argument(1))),
            "wide" => {
                let size: usize = argument(0).parse().unwrap_or(1);
                Ok(Some(format!("{}{}", argument(1), "w".repeat(size))))
            }
            "fail" => fault("22012", argument(0)),
            "lies" => {
                if self.read_only || self.is_standby() {
                    return fault("25006", "cannot execute INSERT in a read-only transaction");
                }
                let nonce = argument(0);
                self.ran.push(nonce.clone());
                self.own.push(nonce.clone());
                Ok(Some(nonce))
            }
            "seen" => {
                let nonce = unmask(&argument(0));
                let shown = self
                    .view
                    .as_ref()
                    .is_none_or(|view| view.shows(&nonce) || self.own.contains(&nonce));
                Ok(Some(if shown { "t" } else { "f" }.to_owned()))
            }
            "current_setting" => Ok(self.setting(&argument(0)).cloned()),
            "set_config" => {
                let local = argument(2).starts_with('t');
                self.assign(&argument(0), Some(&argument(1)), local)?;
                Ok(Some(argument(1)))
            }
            "pg_advisory_lock" => {
                self.pins.locks += 1;
                Ok(Some(String::new()))
            }
            "pg_advisory_unlock_all" => {
                self.pins.locks = 0;
                Ok(Some(String::new()))
            }
            "pg_is_in_recovery" => {
                let standby = self.setting("in_hot_standby").is_some_and(|value| value == "on");
                Ok(Some(if standby { "t" } else { "f" }.to_owned()))
            }
            "pg_my_temp_schema" | "pg_catalog.pg_my_temp_schema" => {
                Ok(Some(if self.pins.tables.is_empty() { "0" } else { "16385" }.to_owned()))
            }
            "pg_backend_pid" => Ok(Some("1".to_owned())),
            other => fault("42883", format!("function {other} does not exist")),
        }
    }

    /// The rows of pgring's look at the session.
    pub(crate) fn inspected(&self, customs: &[String]) -> Vec<Message> {
        let line = |kind: &str, name: &str, value: &str| {
            row(&[Some(kind.to_owned()), Some(name.to_owned()), Some(value.to_owned())])
        };
        let mut rows = Vec::new();
        for name in self.set.keys() {
            let value = self.setting(name).map_or("", String::as_str);
            let shown = !name.contains('.') || customs.contains(name);
            if shown && !(name == "role" && value == "none") && !value.is_empty() {
                rows.push(line("g", name, value));
            }
            if shown && value.is_empty() && !name.contains('.') {
                rows.push(line("g", name, ""));
            }
        }
        let holds = [
            ("l", !self.pins.channels.is_empty()),
            ("a", self.pins.locks > 0),
            ("p", self.prepared.values().any(|statement| statement.from_sql)),
            ("t", !self.pins.tables.is_empty()),
        ];
        rows.extend(holds.iter().filter(|(_, holds)| *holds).map(|(kind, _)| line(kind, "", "")));
        rows
    }
}
