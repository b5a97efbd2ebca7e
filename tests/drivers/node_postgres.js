// node-postgres through pgring: statements, errors, transactions, pools, LISTEN, cancel.

'use strict'
const assert = require('assert')
const { Client, Pool } = require('pg')

async function withClient(work, options) {
  const client = new Client(options)
  await client.connect()
  try {
    await work(client)
  } finally {
    await client.end()
  }
}

async function value(client, text, values) {
  const result = await client.query({ text, values, rowMode: 'array' })
  return result.rows[0][0]
}

async function refused(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.strictEqual(error.code, code, error.message)
    return true
  })
}

async function statements(client) {
  assert.strictEqual(await value(client, 'SELECT 1'), 1)
  const result = await client.query('SELECT 1 AS a; SELECT 2 AS b, $$x$$ AS c')
  assert.deepStrictEqual(result.map((part) => part.rows[0]), [{ a: 1 }, { b: 2, c: 'x' }])
  for (let i = 0; i < 10; i++) {
    const named = { name: 'plus', text: 'SELECT $1::int + 1 AS sum', values: [i] }
    assert.strictEqual((await client.query(named)).rows[0].sum, i + 1)
    assert.strictEqual(await value(client, 'SELECT $1::text', [`value ${i}`]), `value ${i}`)
  }
  await refused(client.query('SELECT $1::int', ['x']), '22P02')
  await refused(client.query('SELEC'), '42601')
  assert.strictEqual(await value(client, 'SELECT $1::int', [5]), 5)
  const queued = Array.from({ length: 50 }, (_, i) => value(client, 'SELECT $1::int', [i]))
  assert.deepStrictEqual(await Promise.all(queued), Array.from({ length: 50 }, (_, i) => i))
  const long = 'y'.repeat(500000)
  assert.strictEqual(await value(client, 'SELECT $1::text', [long]), long)
}

async function sameNames() {
  const clients = Array.from({ length: 4 }, () => new Client())
  await Promise.all(clients.map((client) => client.connect()))
  for (let round = 0; round < 10; round++) {
    const rows = clients.map((client, i) =>
      client.query({ name: 'same', text: `SELECT ${i} AS i, $1::int AS r`, values: [round] }))
    const seen = (await Promise.all(rows)).map((result) => result.rows[0])
    assert.deepStrictEqual(seen, clients.map((_, i) => ({ i, r: round })))
  }
  await Promise.all(clients.map((client) => client.end()))
}

async function transactions(client) {
  await client.query('CREATE TABLE node_tx (i int)')
  await client.query('BEGIN')
  await client.query('INSERT INTO node_tx VALUES ($1)', [1])
  await refused(client.query('SELECT 1/0'), '22012')
  await refused(client.query('SELECT 1'), '25P02')
  await client.query('ROLLBACK')
  await client.query('BEGIN')
  await client.query('INSERT INTO node_tx VALUES ($1)', [2])
  await client.query('COMMIT')
  assert.deepStrictEqual((await client.query('SELECT i FROM node_tx')).rows, [{ i: 2 }])
  await client.query('DROP TABLE node_tx')
  await client.query("SET app.x = 'node'")
  await withClient(async (other) => {
    assert.strictEqual(await value(other, "SELECT current_setting('app.x', true) || ''") || '', '')
  })
  assert.strictEqual(await value(client, 'SHOW app.x'), 'node')
}

async function pools() {
  const pool = new Pool({ max: 12 })
  const work = async (i) => {
    const result = await pool.query('SELECT $1::int AS i, pg_sleep(0.001)', [i])
    assert.strictEqual(result.rows[0].i, i)
  }
  await Promise.all(Array.from({ length: 300 }, (_, i) => work(i)))
  await pool.end()
}

async function listen() {
  await withClient(async (listener) => {
    const heard = []
    const all = new Promise((resolve) => {
      listener.on('notification', (message) => {
        heard.push(message.payload)
        if (heard.length === 3) resolve()
      })
    })
    await listener.query('LISTEN node_news')
    await withClient(async (speaker) => {
      for (const payload of ['a', 'b', 'c']) {
        await speaker.query('SELECT pg_notify($1, $2)', ['node_news', payload])
      }
    })
    await all
    assert.deepStrictEqual(heard, ['a', 'b', 'c'])
    await listener.query('UNLISTEN *')
  })
}

async function cancel() {
  await withClient(async (sleeper) => {
    const sleeping = refused(sleeper.query('SELECT pg_sleep(30)'), '57014')
    setTimeout(() => new Client().cancel(sleeper, sleeper.activeQuery || sleeper._activeQuery), 300)
    await sleeping
    assert.strictEqual(await value(sleeper, 'SELECT 1'), 1)
  })
}

async function main() {
  await withClient(statements)
  await sameNames()
  await withClient(transactions)
  await pools()
  await listen()
  await cancel()
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`)
  process.exit(1)
})
