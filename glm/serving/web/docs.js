"use strict";

// Shows openapi.json: of each path its methods, the fields that a request may have, and the answers.
const at = (id) => document.getElementById(id);

function made(tag, text = "", ...children) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.append(...children);
  return element;
}

function resolved(schema, all) {
  if (!schema?.$ref) return schema ?? {};
  return all.components.schemas[schema.$ref.split("/").at(-1)];
}

function kindOf(schema, all) {
  const kinds = (schema.anyOf ?? [schema]).map((one) => resolved(one, all)).filter((one) => one.type !== "null");
  return kinds.map((one) => one.type === "array" ? `[${kindOf(one.items ?? {}, all)}]` : one.type ?? one.title ?? "any").join(" | ");
}

function boundsOf(schema) {
  const least = schema.minimum ?? schema.exclusiveMinimum, most = schema.maximum ?? schema.exclusiveMaximum;
  if (least === undefined) return "";
  const open = schema.minimum === undefined ? "(" : "[", close = schema.maximum === undefined ? ")" : "]";
  return `${open}${least}, ${most}${close}`;
}

function fieldsTable(schema, all) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const own = (field.anyOf ?? [field]).map((one) => ({ ...field, ...one })).find((one) => one.type !== "null") ?? field;
    return made("tr", "", made("td", "", made("code", name)), made("td", `${kindOf(field, all)} ${boundsOf(own)}`),
      made("td", field.description ?? own.description ?? ""));
  });
  const head = made("tr", "", ...["", "", ""].map((text) => made("th", text)));
  const table = made("table", "", made("tbody", "", ...(rows.length ? rows : [head])));
  const wide = made("div", "", table);
  wide.className = "wide";
  return wide;
}

function bodyOf(part, all) {
  const schema = part?.content?.["application/json"]?.schema;
  return schema && Object.keys(schema).length ? (schema.anyOf ?? [schema]).map((one) => resolved(one, all)) : [];
}

function operationOf(path, method, operation, all) {
  const section = made("section"), title = made("h2"), kind = made("span", method.toUpperCase());
  section.className = "operation";
  section.id = operation.operationId;
  kind.className = "method";
  title.append(kind, " ", made("code", path));
  section.append(title, made("p", operation.description ?? operation.summary ?? ""));
  for (const schema of bodyOf(operation.requestBody, all)) section.append(fieldsTable(schema, all));
  for (const [status, answer] of Object.entries(operation.responses)) {
    const details = made("details", "", made("summary", `${status} ${answer.description ?? ""}`));
    for (const schema of bodyOf(answer, all)) details.append(made("h3", schema.title ?? ""), fieldsTable(schema, all));
    section.append(details);
  }
  return section;
}

async function show() {
  const all = await (await fetch("openapi.json")).json();
  for (const [path, methods] of Object.entries(all.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const link = made("a", `${method.toUpperCase()} ${path}`);
      link.href = `#${operation.operationId}`;
      at("paths").append(made("li", "", link));
      at("operations").append(operationOf(path, method, operation, all));
    }
  }
}

show().catch((error) => {
  at("error").hidden = false;
  at("error").textContent = String(error);
});
