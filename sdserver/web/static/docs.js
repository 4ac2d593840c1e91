function element(name, text, className) {
  const node = document.createElement(name);
  node.textContent = text ?? "";
  if (className) {
    node.className = className;
  }
  return node;
}

function resolved(schema, document) {
  const name = schema?.$ref?.split("/").at(-1);
  return name ? document.components.schemas[name] : schema;
}

/** A schema's type in a few words. */
function typeName(schema) {
  if (schema.anyOf) {
    return schema.anyOf.map(typeName).join(" | ");
  }
  if (schema.type === "array") {
    return `[${typeName(schema.items ?? {})}]`;
  }
  return schema.$ref?.split("/").at(-1) ?? schema.type ?? "any";
}

function fieldTable(schema) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const title of ["Field", "Type", "Default", ""]) {
    head.append(element("th", title));
  }
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = table.insertRow();
    const value = "default" in field ? JSON.stringify(field.default) : "";
    for (const text of [name, typeName(field), value, field.description]) {
      row.append(element("td", text));
    }
  }
  return table;
}

function section(title, content, api) {
  const schema = resolved(content?.["application/json"]?.schema, api);
  const fields = resolved(schema?.items, api) ?? schema;
  if (!fields?.properties) {
    return [];
  }
  return [element("h4", schema.items ? `${title}: a list of` : title), fieldTable(fields)];
}

function route(method, path, operation, api) {
  const details = element("details", "", "route");
  const summary = document.createElement("summary");
  summary.append(element("span", method.toUpperCase(), "method"), path);
  details.append(
    summary,
    element("p", operation.description),
    ...section("Request", operation.requestBody?.content, api),
    ...section("Answer", operation.responses?.["200"]?.content, api),
  );
  return details;
}

async function show() {
  const main = document.getElementById("routes");
  try {
    const api = await (await fetch("openapi.json")).json();
    const routes = Object.entries(api.paths).flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, operation]) => route(method, path, operation, api)),
    );
    main.replaceChildren(...routes);
  } catch (error) {
    main.replaceChildren(element("p", `The description could not be loaded: ${error.message}`));
  }
}

show();
