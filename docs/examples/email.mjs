#!/usr/bin/env node
// Soniq handler: JSON arguments on standard input, the exit code is the verdict.
import { text } from "node:stream/consumers";

const INVALID_ARGUMENTS = 65; // never tried again, like
const PERMANENT = 78;

class Failure extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

async function send({ to } = {}) {
  if (typeof to !== "string" || !to.includes("@")) {
    throw new Failure(`to: not an address: ${JSON.stringify(to)}`, INVALID_ARGUMENTS);
  }
  if (to.endsWith("@closed.example")) {
    throw new Failure(`${to}: the mailbox is closed for good`, PERMANENT);
  }
  if (to.startsWith("flaky@") && process.env.SONIQ_ATTEMPT === "1") {
    throw new Failure("mail server: 451 try again later", 1); // any other code: tried again
  }
  return { sent_to: to, message_id: process.env.SONIQ_JOB_ID };
}

try {
  const result = await send(JSON.parse(await text(process.stdin)));
  console.log(JSON.stringify(result)); // the job's result
} catch (error) {
  console.error(error.message); // the job's error
  process.exitCode = error instanceof SyntaxError ? INVALID_ARGUMENTS : (error.code ?? 1);
}
