// A client with the types of openapi-typescript, over openapi-fetch. Prints what it saw. Judges nothing: the tests do.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.ts';

type Schemas = components['schemas'];

const client = createClient<paths>({ baseUrl: process.argv[2] });
const messages: Schemas['Message'][] = [{ role: 'user', content: 'Say hello.' }];
// `type` is not needed, and neither is `stream`.
const tools: Schemas['Tool'][] = [{ function: { name: 'get_weather', parameters: { type: 'object' } } }];

async function whole(): Promise<[string | null, number]> {
  const { data, error } = await client.POST('/v1/chat/completions', {
    params: { header: { 'x-request-timeout': 30, 'x-request-id': 'a-request' } },
    body: { model: 'small', messages },
  });
  if (error) throw new Error(error.error.message);
  if (typeof data === 'string') throw new Error('the answer is a stream');
  // `message` and `usage` are never absent.
  return [data.choices[0].message.content, data.usage.completion_tokens];
}

async function streamed(): Promise<string> {
  const { data } = await client.POST('/v1/chat/completions', {
    body: { model: 'small', messages, stream: true },
    parseAs: 'text',
  });
  if (typeof data !== 'string') throw new Error('the answer is no stream');
  let text = '';
  for (const line of data.split('\n')) {
    if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
    const event: Schemas['ChatCompletionChunkEvent'] = JSON.parse(line.slice('data: '.length));
    if ('error' in event) throw new Error(event.error.message);
    text += event.choices[0]?.delta.content ?? '';
  }
  return text;
}

async function called(): Promise<[string, string]> {
  const { data } = await client.POST('/v1/chat/completions', {
    body: { model: 'small', messages: [{ role: 'user', content: 'Weather in Paris?' }], tools, tool_choice: 'auto' },
  });
  if (data === undefined || typeof data === 'string') throw new Error('there is no answer');
  const call = data.choices[0].message.tool_calls?.[0];
  if (call?.type !== 'function') throw new Error('there is no call of a function');
  return [call.type, call.function.name];
}

async function refused(): Promise<[number, string, string | null]> {
  const { error, response } = await client.POST('/v1/chat/completions', {
    body: { model: 'small', messages, temperature: 3 },
  });
  if (!error) throw new Error('there is no error');
  return [response.status, error.error.code, error.error.param];
}

console.log(
  JSON.stringify({
    whole: await whole(),
    streamed: await streamed(),
    called: await called(),
    refused: await refused(),
  }),
);
