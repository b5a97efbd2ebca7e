//! Reads what the names of a database mean.

use pgring_logic::catalog::rows::{self, Function, Operator, Relation, Rows, Type};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Error, Row};

/// Reads the catalog of the database that `client` is connected to: as of one moment, but for the
/// texts of views, which are of a moment later.
///
/// # Errors
/// Those of the connection, of a user that may not read `pg_catalog`, and of a relation that stays
/// locked.
pub async fn load(client: &Client) -> Result<Rows, Error> {
    client.batch_execute(rows::BEGIN).await?;
    let functions = client.query(rows::FUNCTIONS, &[]).await?;
    let operators = client.query(rows::OPERATORS, &[]).await?;
    let types = client.query(rows::TYPES, &[]).await?;
    let relations = client.query(rows::RELATIONS, &[]).await?;
    let singles = client.query(rows::SINGLES, &[]).await?;
    let unsound = client.query_one(rows::UNSOUND, &[]).await?;
    let read_committed = client.query_one(rows::READ_COMMITTED, &[]).await?;
    client.batch_execute("COMMIT").await?;
    let mut relations: Vec<Relation> = relations.iter().map(relation).collect();
    let mut texts = views(client, &relations).await?;
    for relation in &mut relations {
        if let Some(view) = relation.view {
            // One that went meanwhile is a text that nobody can read: no read.
            relation.texts.push(texts.remove(&view).unwrap_or_else(|| "gone".to_owned()));
        }
    }
    Ok(Rows {
        functions: functions.iter().map(function).collect(),
        operators: operators.iter().map(operator).collect(),
        types: types.iter().map(found).collect(),
        relations,
        singles: singles.iter().map(|row| row.get(0)).collect(),
        unsound: unsound.get(0),
        read_committed: read_committed.get(0),
    })
}

/// The texts of views, a few in each transaction.
async fn views(client: &Client, relations: &[Relation]) -> Result<BTreeMap<u32, String>, Error> {
    let all: Vec<u32> = relations.iter().filter_map(|relation| relation.view).collect();
    let mut texts = BTreeMap::new();
    for some in all.chunks(rows::VIEWS_AT_ONCE) {
        client.batch_execute(rows::BEGIN).await?;
        for row in client.query(rows::VIEWS, &[&some]).await? {
            texts.insert(row.get(0), row.get(1));
        }
        client.batch_execute("COMMIT").await?;
    }
    Ok(texts)
}

fn function(row: &Row) -> Function {
    Function {
        schema: row.get(0),
        name: row.get(1),
        volatile: row.get(2),
        defaults: row.get(3),
        compiled: row.get(4),
    }
}

fn operator(row: &Row) -> Operator {
    Operator { schema: row.get(0), name: row.get(1), volatile: row.get(2) }
}

fn found(row: &Row) -> Type {
    Type { schema: row.get(0), name: row.get(1), checks: row.get(2) }
}

fn relation(row: &Row) -> Relation {
    Relation {
        schema: row.get(0),
        name: row.get(1),
        bound: row.get(2),
        texts: row.get(3),
        view: row.get(4),
    }
}
