//! Carrying out statements in a modelled session.

use crate::message::{Message, Reader, text};
use crate::session::{Fault, Portal, Prepared, Session, Tx};
use crate::sql::{Expr, Stmt, parse};
use std::rc::Rc;

/// What a statement gives: a row description and rows (or neither), and its command tag.
pub(crate) struct Outcome {
    pub(crate) columns: usize,
    pub(crate) rows: Vec<Message>,
    pub(crate) tag: String,
}

impl Outcome {
    fn tag(tag: &str) -> Self {
        Self { columns: 0, rows: Vec::new(), tag: tag.to_owned() }
    }
}

/// Milliseconds that these statements sleep.
pub(crate) fn sleep(list: &[Stmt]) -> u64 {
    let of = |expr: &Expr| match expr {
        Expr::Call(name, args) if name == "sleep" => match args.first() {
            Some(Expr::Text(number)) => number.parse().unwrap_or(0),
            _ => 0,
        },
        _ => 0,
    };
    let in_one = |stmt: &Stmt| match stmt {
        Stmt::Select(exprs, _) => exprs.iter().map(of).sum(),
        _ => 0_u64,
    };
    list.iter().map(in_one).sum()
}

/// A failure.
pub(crate) fn fault<T>(code: &'static str, said: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(code, said.into()))
}

fn description(columns: usize) -> Message {
    let count = u16::try_from(columns).expect("few columns");
    let mut body = count.to_be_bytes().to_vec();
    for _ in 0..columns {
        body.extend(b"?column?\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    }
    Message::new(b'T', body)
}

/// A `DataRow`.
pub(crate) fn row(values: &[Option<String>]) -> Message {
    let count = u16::try_from(values.len()).expect("few columns");
    let mut body = count.to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(value) => {
                let len = u32::try_from(value.len()).expect("short values");
                body.extend(len.to_be_bytes());
                body.extend(value.as_bytes());
            }
            None => body.extend([0xff; 4]),
        }
    }
    Message::new(b'D', body)
}

fn parameters_of(expr: &Expr) -> usize {
    match expr {
        Expr::Param(number) => number + 1,
        Expr::Call(_, args) => args.iter().map(parameters_of).max().unwrap_or(0),
        Expr::Text(_) | Expr::Null => 0,
    }
}

fn parameters(list: &[Stmt]) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Select(exprs, _) | Stmt::CopyOut(exprs) => {
            exprs.iter().map(parameters_of).max().unwrap_or(0)
        }
        Stmt::Insert(expr) => parameters_of(expr),
        _ => 0,
    };
    list.iter().map(of).max().unwrap_or(0)
}

fn columns(list: &[Stmt]) -> usize {
    match list.first() {
        Some(Stmt::Select(exprs, _)) => exprs.len(),
        Some(Stmt::Show(_)) => 1,
        Some(Stmt::Inspect(_)) => 3,
        _ => 0,
    }
}

fn ends_transaction(list: &[Stmt]) -> bool {
    matches!(list.first(), Some(Stmt::Commit | Stmt::Rollback))
}

impl Session {
    /// One statement of a simple query.
    pub(crate) fn simple(
        &mut self,
        stmt: &Stmt,
        several: bool,
        out: &mut Vec<Message>,
    ) -> Result<(), Fault> {
        if several && *stmt == Stmt::DiscardAll {
            return fault("25001", "DISCARD ALL cannot run inside a transaction block");
        }
        let outcome = self.run(stmt, &[])?;
        if self.copying.is_some() {
            self.copying = Some(false);
            out.push(Message::new(b'G', [0, 0, 0]));
            return Ok(());
        }
        if outcome.columns > 0 {
            out.push(description(outcome.columns));
        }
        out.extend(outcome.rows);
        out.push(Message::new(b'C', text(&outcome.tag)));
        Ok(())
    }

    /// One message of the extended protocol.
    pub(crate) fn extended(
        &mut self,
        message: &Message,
        out: &mut Vec<Message>,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(&message.body);
        match message.tag {
            b'P' => self.parse(&mut reader, out),
            b'B' => self.bind(&mut reader, out),
            b'D' => self.describe(&mut reader, out),
            b'E' => self.execute(&mut reader, out),
            b'C' => {
                let (kind, name) = (reader.byte(), reader.text().unwrap_or_default());
                if kind == Some(b'S') {
                    self.prepared.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                out.push(Message::new(b'3', []));
                Ok(())
            }
            other => fault("08P01", format!("invalid frontend message type {other}")),
        }
    }

    fn parse(&mut self, reader: &mut Reader<'_>, out: &mut Vec<Message>) -> Result<(), Fault> {
        let name = reader.text().unwrap_or_default();
        let sql = reader.text().unwrap_or_default();
        if name.is_empty() {
            self.prepared.remove("");
        }
        let list = parse(&sql);
        if list.len() > 1 {
            return fault("42601", "cannot insert multiple commands into a prepared statement");
        }
        if let Some(Stmt::Bad(tokens)) = list.first() {
            return fault("42601", format!("syntax error at {tokens}"));
        }
        if self.tx == Tx::Failed && !list.is_empty() && !ends_transaction(&list) {
            return fault("25P02", "current transaction is aborted");
        }
        if !name.is_empty() && self.prepared.contains_key(&name) {
            return fault("42P05", "prepared statement already exists");
        }
        let statement =
            Prepared { parameters: parameters(&list), list, from_sql: false, shape: self.shape };
        self.prepared.insert(name, Rc::new(statement));
        out.push(Message::new(b'1', []));
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<Rc<Prepared>, Fault> {
        match self.prepared.get(name) {
            Some(statement) => Ok(Rc::clone(statement)),
            None => fault("26000", "prepared statement does not exist"),
        }
    }

    /// A plan made before tables changed can no longer be used.
    fn fresh(&self, statement: &Prepared) -> Result<(), Fault> {
        let reads = matches!(statement.list.first(), Some(Stmt::Select(_, Some(_))));
        if reads && statement.shape != self.shape {
            return fault("0A000", "cached plan must not change result type");
        }
        Ok(())
    }

    fn bind(&mut self, reader: &mut Reader<'_>, out: &mut Vec<Message>) -> Result<(), Fault> {
        let portal = reader.text().unwrap_or_default();
        let name = reader.text().unwrap_or_default();
        let statement = self.statement(&name)?;
        let formats = reader.short().unwrap_or(0);
        reader.take(usize::from(formats) * 2);
        let count = reader.short().unwrap_or(0);
        let mut values = Vec::new();
        for _ in 0..count {
            let length = reader.long().unwrap_or(u32::MAX);
            let bytes = if length == u32::MAX { None } else { reader.take(length as usize) };
            values.push(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
        }
        if values.len() != statement.parameters {
            return fault("08P01", "bind message supplies the wrong number of parameters");
        }
        if self.tx == Tx::Failed && !statement.list.is_empty() && !ends_transaction(&statement.list)
        {
            return fault("25P02", "current transaction is aborted");
        }
        self.fresh(&statement)?;
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return fault("42P03", "portal already exists");
        }
        self.portals.insert(portal, Portal { statement, values, rows: None, next: 0 });
        out.push(Message::new(b'2', []));
        Ok(())
    }

    fn describe(&mut self, reader: &mut Reader<'_>, out: &mut Vec<Message>) -> Result<(), Fault> {
        let kind = reader.byte();
        let name = reader.text().unwrap_or_default();
        let statement = if kind == Some(b'S') {
            self.statement(&name)?
        } else {
            match self.portals.get(&name) {
                Some(portal) => Rc::clone(&portal.statement),
                None => return fault("34000", "portal does not exist"),
            }
        };
        if kind == Some(b'S') {
            self.fresh(&statement)?;
        }
        let columns = columns(&statement.list);
        if self.tx == Tx::Failed && columns > 0 {
            return fault("25P02", "current transaction is aborted");
        }
        if kind == Some(b'S') {
            let count = u16::try_from(statement.parameters).expect("few parameters");
            let mut body = count.to_be_bytes().to_vec();
            for _ in 0..count {
                body.extend([0, 0, 0, 25]);
            }
            out.push(Message::new(b't', body));
        }
        out.push(if columns > 0 { description(columns) } else { Message::new(b'n', []) });
        Ok(())
    }

    fn execute(&mut self, reader: &mut Reader<'_>, out: &mut Vec<Message>) -> Result<(), Fault> {
        let name = reader.text().unwrap_or_default();
        let most = reader.long().unwrap_or(0) as usize;
        let Some(mut portal) = self.portals.remove(&name) else {
            return fault("34000", "portal does not exist");
        };
        let Some(stmt) = portal.statement.list.first().cloned() else {
            self.portals.insert(name, portal);
            out.push(Message::new(b'I', []));
            return Ok(());
        };
        let mut tag = "SELECT".to_owned();
        if portal.rows.is_none() {
            let outcome = self.run(&stmt, &portal.values)?;
            if self.copying.is_some() {
                self.copying = Some(true);
                out.push(Message::new(b'G', [0, 0, 0]));
                return Ok(());
            }
            if !matches!(stmt, Stmt::Select(..)) {
                out.extend(outcome.rows);
                out.push(Message::new(b'C', text(&outcome.tag)));
                return Ok(());
            }
            outcome.tag.clone_into(&mut tag);
            portal.rows = Some(Rc::new(outcome.rows));
        }
        let rows = portal.rows.clone().unwrap_or_default();
        let left = rows.len() - portal.next;
        let count = if most == 0 { left } else { left.min(most) };
        out.extend_from_slice(&rows[portal.next..portal.next + count]);
        portal.next += count;
        if most > 0 && count == most {
            out.push(Message::new(b's', []));
        } else {
            out.push(Message::new(b'C', text(&format!("SELECT {count}"))));
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    fn run(&mut self, stmt: &Stmt, values: &[Option<String>]) -> Result<Outcome, Fault> {
        if self.tx == Tx::Failed && !matches!(stmt, Stmt::Commit | Stmt::Rollback) {
            return fault("25P02", "current transaction is aborted");
        }
        if (self.read_only || self.is_standby()) && stmt.writes() {
            return fault("25006", "cannot execute this in a read-only transaction");
        }
        match stmt {
            Stmt::Select(exprs, _) => self.select(exprs, values),
            Stmt::Inspect(customs) => {
                let rows = self.inspected(customs);
                Ok(Outcome { columns: 3, tag: format!("SELECT {}", rows.len()), rows })
            }
            Stmt::Begin(read_only) => {
                self.tx = Tx::Open;
                self.read_only = *read_only;
                Ok(Outcome::tag("BEGIN"))
            }
            Stmt::Commit => {
                let failed = self.tx == Tx::Failed;
                self.end(true);
                self.start();
                Ok(Outcome::tag(if failed { "ROLLBACK" } else { "COMMIT" }))
            }
            Stmt::Rollback => {
                self.end(false);
                self.start();
                Ok(Outcome::tag("ROLLBACK"))
            }
            Stmt::Show(name) => match self.setting(name) {
                Some(value) => {
                    let rows = vec![row(&[Some(value.clone())])];
                    Ok(Outcome { columns: 1, rows, tag: "SHOW".to_owned() })
                }
                None => fault("42704", "unrecognized configuration parameter"),
            },
            Stmt::CopyIn => {
                self.copying = Some(false);
                self.copied = 0;
                Ok(Outcome::tag(""))
            }
            Stmt::CopyOut(exprs) => self.copy_out(exprs, values),
            Stmt::Execute(name, args) => {
                let statement = self.statement(name)?;
                let mut given = Vec::new();
                for arg in args {
                    given.push(self.value(arg, values)?);
                }
                match statement.list.first() {
                    Some(inner) => self.run(&inner.clone(), &given),
                    None => fault("42601", "empty statement"),
                }
            }
            Stmt::Insert(expr) => {
                let value = self.value(expr, values)?;
                self.ran.extend(value.clone());
                self.own.extend(value);
                Ok(Outcome::tag("INSERT 0 1"))
            }
            Stmt::Bad(tokens) => fault("42601", format!("syntax error at {tokens}")),
            other => self.change(other),
        }
    }

    /// Statements that change the session and give nothing.
    fn change(&mut self, stmt: &Stmt) -> Result<Outcome, Fault> {
        let tag = match stmt {
            Stmt::Set(name, value, local) => {
                self.assign(name, value.as_deref(), *local)?;
                if value.is_some() || *local { "SET" } else { "RESET" }
            }
            Stmt::ResetAll => {
                self.set.retain(|name, _| name == "role");
                self.local.clear();
                "RESET"
            }
            Stmt::DiscardAll => {
                if self.tx != Tx::Idle {
                    return fault("25001", "DISCARD ALL cannot run inside a transaction block");
                }
                self.set.clear();
                self.local.clear();
                self.prepared.clear();
                self.portals.clear();
                self.pins = crate::session::Pins::default();
                "DISCARD ALL"
            }
            Stmt::Listen(channel) => {
                self.pins.channels.insert(channel.clone());
                "LISTEN"
            }
            Stmt::Unlisten => {
                self.pins.channels.clear();
                "UNLISTEN"
            }
            Stmt::TempTable(name) => {
                self.pins.tables.insert(name.clone());
                "CREATE TABLE"
            }
            Stmt::Prepare(name, inner) => {
                if self.prepared.contains_key(name) {
                    return fault("42P05", "prepared statement already exists");
                }
                let list = vec![(**inner).clone()];
                let prepared = Prepared {
                    parameters: parameters(&list),
                    list,
                    from_sql: true,
                    shape: self.shape,
                };
                self.prepared.insert(name.clone(), Rc::new(prepared));
                "PREPARE"
            }
            Stmt::Deallocate(Some(name)) => {
                if self.prepared.remove(name).is_none() {
                    return fault("26000", "prepared statement does not exist");
                }
                "DEALLOCATE"
            }
            Stmt::Deallocate(None) => {
                self.prepared.clear();
                "DEALLOCATE ALL"
            }
            other => return fault("XX000", format!("not a change: {other:?}")),
        };
        Ok(Outcome::tag(tag))
    }

    /// SET of one parameter.
    pub(crate) fn assign(
        &mut self,
        name: &str,
        value: Option<&str>,
        local: bool,
    ) -> Result<(), Fault> {
        let name = name.to_ascii_lowercase();
        if !name.contains('.') && !self.defaults.contains_key(&name) {
            return fault("42704", format!("unrecognized configuration parameter {name}"));
        }
        let target = if local { &mut self.local } else { &mut self.set };
        match value {
            Some(value) => {
                target.insert(name.clone(), value.to_owned());
            }
            None if local => {
                let default = self.defaults.get(&name).cloned().unwrap_or_default();
                self.local.insert(name.clone(), default);
            }
            None => {
                self.set.remove(&name);
            }
        }
        if !local {
            self.local.remove(&name);
        }
        Ok(())
    }
}
