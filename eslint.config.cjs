/** What ESLint looks for in the JavaScript. CommonJS, so that it finds `@eslint/js` wherever the tools are installed. */

const js = require("@eslint/js");

const HTML = "Payloads are agents' words: use textContent, and rows from a <template>.";

module.exports = [
  { ignores: ["**/.*/", "build/", "dist/", "node_modules/"] },
  js.configs.recommended,
  {
    files: ["**/*.js", "**/*.mjs"],
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      // The compiler knows better which names there are.
      "no-undef": "off",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_", caughtErrors: "all" }],
      eqeqeq: "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-throw-literal": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-script-url": "error",
      "no-console": "error",
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc"].map((property) => ({ property, message: HTML })),
        { object: "document", property: "write", message: HTML },
      ],
      "no-restricted-syntax": [
        "error",
        {
          selector: "CallExpression[callee.property.name='setAttribute'][arguments.0.value='style']",
          message: "The Content-Security-Policy forbids it: use el.style.setProperty.",
        },
        {
          selector: "CallExpression[callee.property.name='setAttribute'][arguments.0.value=/^on/]",
          message: "The Content-Security-Policy forbids it: use addEventListener.",
        },
      ],
    },
  },
  { files: ["examples/**", "tests/**"], rules: { "no-console": "off" } },
];
