// Makes small tokenizer.json cases for each component and what the tokenizers library (npm tokenizers 0.23.2) gives for them.
import { createRequire } from 'module'; import fs from 'fs';
const { Tokenizer } = createRequire(import.meta.url)('tokenizers');
const texts = ["Hello world","  Hello,  World! 12 345 ","","\n\t x\r\n","naïve Ångström é ﬁ ½ ① İI ǅ","日本語 テキスト。中文，한국어 각","😀👩\u200d👧 𝔘𝔫 𝟘1","a-b--c_d","don't I'LL 'S","x\u200by\ufeff z\u00a0w\u0301 \u0000\u0007","<s>hi</s> <tok>a<tok> b","aa ab ba bb abc","ﾊﾟ ｶﾞ ㎏ ª º ² ⅷ","Ünïcödé ÀÉ ß Σς","lower UPPER MiXed"," ▁ ▁▁x ▁","הָעִבְרִית नमस्ते ไทยคำ"];
// a vocabulary of single characters over all the texts in all the shapes normalizers give, plus some words
const chars = new Set(); for (const t of texts) for (const f of ["NFC","NFD","NFKC","NFKD"]) for (const c of t.normalize(f) + t.toLowerCase().normalize(f)) chars.add(c);
for (const c of "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ") chars.add(c);
const drop = new Set(["𝔘","½","ß","ไ"]); // so that there are unknown characters
const alphabet = [...chars].filter(c => !drop.has(c)).sort((a,b)=>a.codePointAt(0)-b.codePointAt(0));
const vocab = {}; const add = t => { if (!(t in vocab)) vocab[t] = Object.keys(vocab).length; };
["<unk>","<s>","</s>"].forEach(add); alphabet.forEach(add);
const merges = [["l","l"],["h","e"],["he","ll"],["hell","o"],["H","e"],["He","ll"],["Hell","o"],["a","b"],["a","a"],["ab","c"],["▁","H"],["1","2"],["o","r"],["w","or"],["▁","▁"],["日","本"],[" "," "],["e","r"]];
merges.forEach(([a,b])=>add(a+b));
const charBpe = (o={}) => ({type:"BPE",dropout:null,unk_token:"<unk>",continuing_subword_prefix:null,end_of_word_suffix:null,fuse_unk:false,byte_fallback:false,ignore_merges:false,vocab,merges,...o});
const base = (o) => ({version:"1.0",truncation:null,padding:null,added_tokens:[],normalizer:null,pre_tokenizer:null,post_processor:null,decoder:null,model:charBpe(),...o});
const AT = (id,content,o={}) => ({id,content,single_word:false,lstrip:false,rstrip:false,normalized:false,special:false,...o});
const cases = {};
const N = (name,n) => cases["normalizer "+name] = base({normalizer:n});
for (const t of ["NFC","NFD","NFKC","NFKD","Lowercase","StripAccents","Nmt"]) N(t,{type:t});
N("ByteLevel",{type:"ByteLevel"}); N("Strip both",{type:"Strip",strip_left:true,strip_right:true}); N("Strip left",{type:"Strip",strip_left:true,strip_right:false}); N("Strip right",{type:"Strip",strip_left:false,strip_right:true});
N("Replace string",{type:"Replace",pattern:{String:" "},content:"▁"}); N("Replace regex",{type:"Replace",pattern:{Regex:"\\s{2,}|l+"},content:"__"}); N("Replace by nothing",{type:"Replace",pattern:{Regex:"[aeiou]"},content:""});
N("Prepend",{type:"Prepend",prepend:"▁"}); N("Sequence",{type:"Sequence",normalizers:[{type:"NFD"},{type:"StripAccents"},{type:"Lowercase"},{type:"Prepend",prepend:"▁"},{type:"Replace",pattern:{String:" "},content:"▁"}]});
for (const [k,o] of Object.entries({all:{clean_text:true,handle_chinese_chars:true,strip_accents:null,lowercase:true},cased:{clean_text:true,handle_chinese_chars:true,strip_accents:null,lowercase:false},accents:{clean_text:false,handle_chinese_chars:false,strip_accents:true,lowercase:false},lower:{clean_text:false,handle_chinese_chars:true,strip_accents:false,lowercase:true}})) N("BertNormalizer "+k,{type:"BertNormalizer",...o});
const P = (name,p,o={}) => cases["pre_tokenizer "+name] = base({pre_tokenizer:p,...o});
P("Whitespace",{type:"Whitespace"}); P("WhitespaceSplit",{type:"WhitespaceSplit"}); P("BertPreTokenizer",{type:"BertPreTokenizer"}); P("UnicodeScripts",{type:"UnicodeScripts"});
P("Digits",{type:"Digits",individual_digits:false}); P("Digits individual",{type:"Digits",individual_digits:true}); P("CharDelimiterSplit",{type:"CharDelimiterSplit",delimiter:"-"}); P("FixedLength",{type:"FixedLength",length:3});
for (const b of ["Removed","Isolated","MergedWithPrevious","MergedWithNext","Contiguous"]) { P("Punctuation "+b,{type:"Punctuation",behavior:b}); for (const invert of [false,true]) { P(`Split string ${b} ${invert}`,{type:"Split",pattern:{String:"-"},behavior:b,invert}); P(`Split regex ${b} ${invert}`,{type:"Split",pattern:{Regex:"\\p{L}+|\\d"},behavior:b,invert}); } }
for (const s of ["always","first","never"]) for (const split of [true,false]) P(`Metaspace ${s} ${split}`,{type:"Metaspace",replacement:"▁",prepend_scheme:s,split},{decoder:{type:"Metaspace",replacement:"▁",prepend_scheme:s,split},added_tokens:[AT(1,"<s>",{special:true}),AT(2,"</s>",{special:true})]});
for (const a of [true,false]) for (const u of [true,false]) P(`ByteLevel ${a} ${u}`,{type:"ByteLevel",add_prefix_space:a,trim_offsets:true,use_regex:u},{decoder:{type:"ByteLevel",add_prefix_space:a,trim_offsets:true,use_regex:u},post_processor:{type:"ByteLevel",add_prefix_space:a,trim_offsets:true,use_regex:u}});
P("Sequence",{type:"Sequence",pretokenizers:[{type:"WhitespaceSplit"},{type:"Punctuation",behavior:"Isolated"},{type:"Digits",individual_digits:true}]});
const regexes = ["(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+","[\\p{Han}\\p{Hiragana}\\p{Katakana}]+|\\p{Latin}+","[[:alpha:]&&[^a-e]]+","(?<=l)l|o(?= )","\\bw","[^\\W\\d_]+","\\h{2,}","a{,2}b|a(?i)B|C","(?m:.)$|^.","[\\u3040-\\u30ff\\x{4e00}-\\x{9fff}]+","\\p{Lu}\\p{Ll}*|\\P{L}","(?i)[h-l]+","[\\]\\-a]+|\\.","\\w+?|\\S*+","(ab)+|(?:a|b){2}?","\\p{^L}+","[^\\p{L}\\p{M}\\s]","(?>a+)b|\\R","[a-c-e]","\\p{Alnum}+|[[:punct:]]"];
regexes.forEach((r,i)=>P(`regex ${r}`,{type:"Split",pattern:{Regex:r},behavior:"Isolated",invert:false}));
const M = (name,m,o={}) => cases["model "+name] = base({model:m,...o});
M("BPE fuse_unk",charBpe({fuse_unk:true})); M("BPE no unk",charBpe({unk_token:null}));
const bytes = {...vocab}; let k=Object.keys(bytes).length; for (let i=0;i<256;i++) bytes[`<0x${i.toString(16).toUpperCase().padStart(2,"0")}>`]=k++;
const some = {...bytes}; delete some["<0xC2>"]; let q=0; for (const t of Object.keys(some)) some[t]=q++;
M("BPE byte_fallback",charBpe({byte_fallback:true,fuse_unk:true,vocab:bytes}),{decoder:{type:"Sequence",decoders:[{type:"Replace",pattern:{String:"▁"},content:" "},{type:"ByteFallback"},{type:"Fuse"},{type:"Strip",content:" ",start:1,stop:0}]}});
M("BPE byte_fallback with a byte missing",charBpe({byte_fallback:true,fuse_unk:true,vocab:some})); M("BPE byte_fallback with a byte missing, unk not fused",charBpe({byte_fallback:true,vocab:some}));
M("BPE ignore_merges",charBpe({ignore_merges:true,merges:merges.slice(0,2)}),{pre_tokenizer:{type:"WhitespaceSplit"}});
M("BPE legacy merges",charBpe({merges:merges.filter(([a,b])=>!a.includes(" ")).map(m=>m.join(" "))}));
const sub={}; const sa=t=>{ if(!(t in sub)) sub[t]=Object.keys(sub).length; }; sa("<unk>"); for (const c of "abcdelowrhx") { sa(c); sa("##"+c); sa(c+"</w>"); sa("##"+c+"</w>"); } ["ab","##bc","ab##c","he","hel","##lo</w>","aa"].forEach(sa);
M("BPE prefix and suffix",charBpe({vocab:sub,continuing_subword_prefix:"##",end_of_word_suffix:"</w>",merges:[["a","##b"],["h","##e"],["he","##l"]]}),{pre_tokenizer:{type:"WhitespaceSplit"},decoder:{type:"BPEDecoder",suffix:"</w>"}});
const wp={}; for (const t of ["[UNK]","[CLS]","[SEP]","hello","world","he","##llo","##l","##o","w","##or","##ld","a","b","##b","##c","ab",",","!","日","##本","1","##2","don","'","t","s","##s","é","##é"]) wp[t]=Object.keys(wp).length;
M("WordPiece",{type:"WordPiece",unk_token:"[UNK]",continuing_subword_prefix:"##",max_input_chars_per_word:8,vocab:wp},{normalizer:{type:"BertNormalizer",clean_text:true,handle_chinese_chars:true,strip_accents:null,lowercase:true},pre_tokenizer:{type:"BertPreTokenizer"},post_processor:{type:"BertProcessing",sep:["[SEP]",2],cls:["[CLS]",1]},decoder:{type:"WordPiece",prefix:"##",cleanup:true},added_tokens:[AT(0,"[UNK]",{special:true}),AT(1,"[CLS]",{special:true}),AT(2,"[SEP]",{special:true})]});
M("WordLevel",{type:"WordLevel",unk_token:"<unk>",vocab:{"<unk>":0,Hello:1,world:2,hello:3,aa:4,ab:5,a:6}},{pre_tokenizer:{type:"Whitespace"}});
const uni=[["<unk>",0],["<s>",0],["</s>",0],["▁",-2.5],["l",-3.1],["o",-3.0],["e",-2.9],["H",-4],["h",-3.5],["lo",-3.6],["ll",-4.1],["Hello",-6.5],["▁Hello",-6],["▁w",-4],["or",-4],["ld",-4.2],["a",-3],["b",-3.2],["ab",-5],["aa",-5.9],["abc",-8],["c",-4],["1",-5],["2",-5],["日",-7],["日本",-9],["é",-6],["d",-4],["r",-4],["w",-4]];
const uniB=[...uni]; for (let i=0;i<256;i++) uniB.push([`<0x${i.toString(16).toUpperCase().padStart(2,"0")}>`,0]);
const ms={type:"Metaspace",replacement:"▁",prepend_scheme:"always",split:true};
M("Unigram",{type:"Unigram",unk_id:0,vocab:uni,byte_fallback:false},{pre_tokenizer:ms,decoder:ms,post_processor:{type:"TemplateProcessing",single:[{SpecialToken:{id:"<s>",type_id:0}},{Sequence:{id:"A",type_id:0}},{SpecialToken:{id:"</s>",type_id:0}}],pair:[{Sequence:{id:"A",type_id:0}},{Sequence:{id:"B",type_id:1}}],special_tokens:{"<s>":{id:"<s>",ids:[1],tokens:["<s>"]},"</s>":{id:"</s>",ids:[2],tokens:["</s>"]}}}});
M("Unigram byte_fallback",{type:"Unigram",unk_id:0,vocab:uniB,byte_fallback:true},{pre_tokenizer:ms,decoder:{type:"Sequence",decoders:[{type:"ByteFallback"},ms]}});
M("Unigram whole text",{type:"Unigram",unk_id:0,vocab:uni,byte_fallback:false},{normalizer:{type:"Replace",pattern:{String:" "},content:"▁"}});
const added=[AT(0,"<unk>",{special:true}),AT(1,"<s>",{special:true,lstrip:true}),AT(2,"</s>",{special:true,rstrip:true}),AT(900,"<tok>",{}),AT(901,"world",{single_word:true}),AT(902,"or",{single_word:true}),AT(903,"ab",{lstrip:true,rstrip:true}),AT(904,"aa",{normalized:true}),AT(905,"UPPER",{normalized:true}),AT(906,"Hello,"),AT(907,"Hel"),AT(908,"日本語 ",{}),AT(909,"é",{normalized:true})];
cases["added tokens"]=base({added_tokens:added}); cases["added tokens, normalizer"]=base({added_tokens:added,normalizer:{type:"Sequence",normalizers:[{type:"Lowercase"},{type:"NFD"}]}});
cases["added tokens, sentencepiece style"]=base({added_tokens:added,normalizer:{type:"Sequence",normalizers:[{type:"Prepend",prepend:"▁"},{type:"Replace",pattern:{String:" "},content:"▁"}]},decoder:{type:"Sequence",decoders:[{type:"Replace",pattern:{String:"▁"},content:" "},{type:"Fuse"},{type:"Strip",content:" ",start:1,stop:0}]}});
cases["post_processor Roberta"]=base({pre_tokenizer:{type:"ByteLevel",add_prefix_space:true,trim_offsets:true,use_regex:true},post_processor:{type:"RobertaProcessing",sep:["</s>",2],cls:["<s>",1],trim_offsets:true,add_prefix_space:true},added_tokens:[AT(1,"<s>",{special:true}),AT(2,"</s>",{special:true})]});
cases["post_processor Sequence"]=base({post_processor:{type:"Sequence",processors:[{type:"ByteLevel",add_prefix_space:false,trim_offsets:true,use_regex:true},{type:"TemplateProcessing",single:[{SpecialToken:{id:"<s>",type_id:0}},{SpecialToken:{id:"<s>",type_id:0}},{Sequence:{id:"A",type_id:0}}],pair:[{Sequence:{id:"A",type_id:0}},{Sequence:{id:"B",type_id:1}}],special_tokens:{"<s>":{id:"<s>",ids:[1],tokens:["<s>"]}}}]}});
cases["decoder CTC"]=base({decoder:{type:"CTC",pad_token:"a",word_delimiter_token:"l",cleanup:true}}); cases["decoder WordPiece"]=base({decoder:{type:"WordPiece",prefix:"h",cleanup:false}}); cases["decoder Strip"]=base({decoder:{type:"Strip",content:"l",start:2,stop:0}}); cases["decoder Replace regex"]=base({decoder:{type:"Sequence",decoders:[{type:"Fuse"},{type:"Replace",pattern:{Regex:"[lo]+"},content:"-"}]}});
// Cases with texts of their own.
const own = {}; const O = (name, json, list) => { cases[name] = json; own[name] = list; };
const ae=["ab\u20ac","\u20ac a\u20acb","\u20ac\u20ac"]; const wide={...bytes}; k=Object.keys(wide).length; for (const c of "abé") { wide["##"+c]=k++; wide[c+"</w>"]=k++; }
O("BPE byte_fallback spells the prefix",base({model:charBpe({byte_fallback:true,continuing_subword_prefix:"##",vocab:wide,merges:[]})}),ae);
O("BPE byte_fallback spells the suffix",base({model:charBpe({byte_fallback:true,end_of_word_suffix:"</w>",vocab:wide,merges:[]}),pre_tokenizer:{type:"WhitespaceSplit"}}),ae);
O("added tokens that swallow the next one",base({added_tokens:[AT(900,"\n",{lstrip:true,rstrip:true}),AT(901,"aa",{rstrip:true})]}),["\n\n","a\n\n b","\n \n\n","aa aa  aa\n"]);
O("Metaspace first after a mark that goes",base({normalizer:{type:"StripAccents"},pre_tokenizer:{type:"Metaspace",replacement:"▁",prepend_scheme:"first",split:true}}),["\u0301'll b","ab b"]);
O("Unigram without unk_id",base({model:{type:"Unigram",unk_id:null,vocab:[...uni,["a\u20ac",-1]],byte_fallback:false}}),["a\u20acb","loa\u20aco"]);
const tp=(...single)=>({type:"TemplateProcessing",single:single.map(x=>x==="A"?{Sequence:{id:"A",type_id:0}}:{SpecialToken:{id:x,type_id:0}}),pair:[{SpecialToken:{id:"</s>",type_id:0}},{Sequence:{id:"B",type_id:0}},{Sequence:{id:"A",type_id:1}},{SpecialToken:{id:"<s>",type_id:0}}],special_tokens:{"<s>":{id:"<s>",ids:[1],tokens:["<s>"]},"</s>":{id:"</s>",ids:[2],tokens:["</s>"]}}});
const bp={type:"BertProcessing",sep:["</s>",2],cls:["<s>",1]}, rp={type:"RobertaProcessing",sep:["</s>",2],cls:["<s>",1],trim_offsets:false,add_prefix_space:false};
for (const [n,l] of Object.entries({"template, template":[tp("<s>","A"),tp("A","</s>")],"template, bert":[tp("<s>","A"),bp],"template, roberta":[tp("A","</s>"),rp],"bert, template":[bp,tp("</s>","A","</s>")],"two templates of one piece":[tp("A"),tp("A","<s>")]})) O("post_processor Sequence of "+n,base({post_processor:{type:"Sequence",processors:l}}),["ab",""]);
for (const t of ["NFC","NFD","NFKC","NFKD"]) O(t+" of what the tables lack",base({normalizer:{type:t},model:charBpe({byte_fallback:true,vocab:bytes})}),["\ufffe","e\ufffe\u0301e\u0301\uffff","㋿ ㍿ \ufdd0","\u0378\u0301"]);
O("BertNormalizer keeps the unassigned",base({normalizer:{type:"BertNormalizer",clean_text:true,handle_chinese_chars:false,strip_accents:false,lowercase:false},model:charBpe({byte_fallback:true,vocab:bytes})}),["a\u0378b\u{10ffff}\ue000\u200b\ufffe"]);
const out = [];
for (const [name, json] of Object.entries(cases)) { let t; try { t = Tokenizer.fromString(JSON.stringify(json)); } catch (x) { out.push({name, error: String(x)}); console.log("refused:", name, String(x).slice(0,120)); continue; }
 const rows=[]; for (const s of own[name] ?? texts) { try { const e = await t.encode(s,null,{addSpecialTokens:false}); const f = await t.encode(s); rows.push({text:s,ids:e.getIds(),offsets:e.getOffsets().some(([a,b])=>!(a<=b&&b<=s.length))||name.includes("spells")?undefined:e.getOffsets(),ids_special:f.getIds(),decoded:e.getIds().length?await t.decode(e.getIds(),false):"",decoded_skip:f.getIds().length?await t.decode(f.getIds(),true):""}); } catch (x) { rows.push({text:s,error:String(x)}); console.log(name,s,String(x)); } }
 // the shared vocabulary is written once
 const j = JSON.parse(JSON.stringify(json)); if (json.model.vocab === vocab) j.model.vocab = "shared"; if (json.model.merges === merges) j.model.merges = "shared";
 out.push({name, tokenizer: j, rows}); }
fs.writeFileSync(process.argv[2], '{"vocab":'+JSON.stringify(vocab)+',\n"merges":'+JSON.stringify(merges)+',\n"cases":[\n'+out.map(c=>JSON.stringify(c)).join(',\n')+'\n]}\n');
console.log(Object.keys(cases).length);
