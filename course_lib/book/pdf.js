// Turns the article of a built page, as the browser shows it, into a part of a larger document.
// Identifiers get the number of the page in front; links to pages of the book become links inside the document.
([number, numbers]) => {
  const article = document.querySelector("article.bd-article");
  const unused = ".headerlink, .copybtn, script, .mjx-assistive-mml, .scrub-controls";
  article.querySelectorAll(unused).forEach((node) => node.remove());
  for (const node of article.querySelectorAll("[id]")) node.id = `p${number}-${node.id}`;
  for (const link of article.querySelectorAll("a[href]")) {
    const url = new URL(link.href); // absolute
    const target = numbers[url.origin === location.origin ? url.pathname : ""];
    if (target !== undefined) link.setAttribute("href", `#p${target}${url.hash && "-"}${url.hash.slice(1)}`);
    else link.href = link.href;
  }
  for (const image of article.querySelectorAll("img")) image.src = image.src; // absolute
  const title = article.querySelector("h1");
  const headings = [...article.querySelectorAll("section > h1, section > h2")].map((heading) => ({
    level: Number(heading.tagName[1]),
    text: heading.textContent,
    id: heading.closest("section").id,
  }));
  return {
    title: title.textContent,
    headings,
    html: article.innerHTML,
    styles: [...document.querySelectorAll("head style")].map((style) => style.textContent),
    sheets: [...document.querySelectorAll('link[rel="stylesheet"]')].map((link) => link.href),
  };
};
