// The page /docs in a simulated browser. Prints the operations that the page shows. Judges nothing: the tests do.
import { JSDOM, VirtualConsole } from 'jsdom';

const url = process.argv[2];
const errors = [];
const virtualConsole = new VirtualConsole();
virtualConsole.on('jsdomError', (error) => errors.push(String(error.message)));
const { window } = await JSDOM.fromURL(`${url}/docs`, {
  runScripts: 'dangerously',
  resources: 'usable',
  pretendToBeVisual: true,
  virtualConsole,
  beforeParse(page) {
    // jsdom has no fetch.
    page.fetch = (target, options) => fetch(new URL(target, url), options);
    Object.assign(page, { Request, Response, Headers, structuredClone, scrollTo() {} });
  },
});

const shown = () => [...window.document.querySelectorAll('.opblock')];
const deadline = Date.now() + 60_000;
while (!shown().length && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
const text = (block, name) => block.querySelector(name)?.textContent.replaceAll('\u200b', '').trim().toLowerCase();
const operations = shown().map((block) => [
  text(block, '.opblock-summary-method'),
  text(block, '.opblock-summary-path'),
]);
const tags = [...window.document.querySelectorAll('.opblock-tag')].map((tag) => tag.getAttribute('data-tag'));
const faults = [...window.document.querySelectorAll('.errors-wrapper .error')].map((fault) => fault.textContent);
console.log(JSON.stringify({ operations, tags, faults, errors }));
window.close();
process.exit(0);
